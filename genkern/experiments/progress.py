"""What a run says while it trains: a live bar in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from typing import Any, Protocol


class Report(Protocol):
    def start(self, title: str, steps: int, done: int) -> None: ...

    def step(self, done: int, values: dict[str, float]) -> None: ...

    def evaluated(self, done: int, line: str) -> None: ...

    def stop(self) -> None: ...


class Silent:
    def start(self, title: str, steps: int, done: int) -> None: ...

    def step(self, done: int, values: dict[str, float]) -> None: ...

    def evaluated(self, done: int, line: str) -> None: ...

    def stop(self) -> None: ...


class Plain:
    """One line for each evaluation: reads well in a log file."""

    def __init__(self) -> None:
        self.steps, self.values = 0, ""

    def start(self, title: str, steps: int, done: int) -> None:
        self.steps = steps
        print(title + (f" (from step {done})" if done else ""), flush=True)

    def step(self, done: int, values: dict[str, float]) -> None:
        self.values = words(values)

    def evaluated(self, done: int, line: str) -> None:
        print(f"step {done}/{self.steps}  {self.values}  {line}", flush=True)

    def stop(self) -> None: ...


class Live:
    """A progress bar with the last values beside it."""

    def __init__(self) -> None:
        self.progress: Any = None
        self.task: Any = None
        self.line = ""

    def start(self, title: str, steps: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        self.progress.start()
        self.task = self.progress.add_task(title, total=steps, completed=done, values="")

    def step(self, done: int, values: dict[str, float]) -> None:
        self.progress.update(self.task, completed=done, values=f"{words(values)}  {self.line}")

    def evaluated(self, done: int, line: str) -> None:
        self.line = line
        self.progress.update(self.task, completed=done)

    def stop(self) -> None:
        if self.progress is not None:
            self.progress.stop()


def for_terminal() -> Report:
    return Live() if sys.stdout.isatty() else Plain()


def words(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())

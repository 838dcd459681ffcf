"""What was measured, for people: a terminal table and a markdown page. Rows that lose are shown and marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .registry import TRAIN, reason
from .results import Results
from .runner import OK, Machine, Row, Timed
from .timing import Spread

LOSES, NOISE = "▼", "~"
TIE = 0.98  # a ratio below it is a loss
HEAD = ("workload", "mode", "genkern", "copies", "roofline", "eager", "compile", "others", "memory")
LAUNCH = "a handful of numbers: what is timed is the call"
TOO_NOISY = 0.25  # of the rows: then the whole run should be repeated


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def size(count: int | None) -> str:
    if count is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def times(spread: Spread | None, wide: bool = False) -> str:
    """A ratio to genkern's time: above 1 the other one is slower."""
    if spread is None:
        return "–"
    text = f"{spread.median:.2f}×" + (f" ({spread.p20:.2f}–{spread.p80:.2f})" if wide else "")
    return text + (f" {LOSES}" if spread.median < TIE else "")


def cell(row: Row, provider: str, wide: bool = False) -> str:
    timed = row.providers.get(provider)
    if timed is None:
        return "–"
    if timed.status != OK:
        return timed.status.split(":")[0]
    text = times(timed.ratio, wide)
    return text.removesuffix(f" {LOSES}") if provider.startswith("genkern") else text


def absent(timed: Timed) -> bool:
    """Whether it took no part for want of its library: named once, below the table."""
    return timed.status.startswith("not installed")


def others(row: Row, wide: bool = False) -> str:
    rivals = [n for n, t in row.providers.items() if n not in ("genkern", "eager", "compile") and not absent(t)]
    return ", ".join(f"{name} {cell(row, name, wide)}" for name in rivals) or "–"


def cells(row: Row, wide: bool = False) -> list[str]:
    ours = row.providers["genkern"]
    fine = ours.time is not None and not row.launch
    return [
        row.workload + (f" {NOISE}" if row.noisy else ""),
        row.mode,
        seconds(ours.time.median) if ours.time else ours.status.split(":")[0],
        f"{row.copies.median:.2f}" if fine and row.copies else "–",
        f"{100 * row.roofline:.0f} %" if fine and row.roofline else "–",
        cell(row, "eager", wide),
        cell(row, "compile", wide),
        others(row, wide),
        _memory(row),
    ]


def _memory(row: Row) -> str:
    ours = row.providers["genkern"]
    found = [f"saved {size(ours.saved_bytes)}"] if row.mode == TRAIN else []
    found += [f"peak {size(ours.peak_bytes)}"] if ours.peak_bytes is not None else []
    return ", ".join(found) or "–"


def loses(row: Row) -> bool:
    return bool(losses([row]))


@dataclass(frozen=True)
class Loss:
    """A comparison in which genkern is slower."""

    row: Row
    provider: str
    ratio: Spread

    @property
    def reason(self) -> str | None:
        return reason(self.row.op, self.provider) or (LAUNCH if self.row.launch else None)

    def __str__(self) -> str:
        return f"{self.row.op} {self.row.workload} ({self.row.mode}) {self.ratio.median:.2f}×"


def losses(rows: Sequence[Row]) -> list[Loss]:
    """Everything that genkern loses, the worst first."""
    found = [Loss(row, name, ratio) for row in rows for name, ratio in rivals(row).items() if ratio.median < TIE]
    return sorted(found, key=lambda loss: loss.ratio.median)


def reasons(found: Sequence[Loss]) -> list[str]:
    """The losses, those to the same rival of the same op together, each with the sentence that says why."""
    groups: dict[tuple[str, str], list[Loss]] = {}
    for loss in found:
        groups.setdefault((loss.row.op, loss.provider), []).append(loss)
    lines = []
    for (op, provider), group in groups.items():
        named = ", ".join(f"{loss.row.workload} ({loss.row.mode}) {loss.ratio.median:.2f}×" for loss in group)
        why = group[0].reason
        lines.append(
            f"- **{op}**, {provider}: {named}. {f'{why[0].upper()}{why[1:]}.' if why else 'No reason is known.'}"
        )
    return lines


def rivals(row: Row) -> dict[str, Spread]:
    """Ratios of those who are not genkern, nor genkern in another form."""
    return {n: t.ratio for n, t in row.providers.items() if not n.startswith("genkern") and t.ratio is not None}


# -- terminal -------------------------------------------------------------------------------------------------------


def ceilings(machine: Machine) -> str:
    """What the machine can do at best, as measured in the same run."""
    return (
        f"copy {machine.copy_bytes_per_second / 1e9:.3g} GB/s, GEMM {machine.gemm_flops_per_second / 1e9:.4g} GFLOP/s"
    )


def head(results: Results) -> str:
    facts, rates = results.provenance, ceilings(results.machine)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['machine']}, {facts['threads']} threads of {facts['cores']}; {rates}\n"
        f"{versions}; commit {facts['commit'] or 'unknown'}; {facts['date']}; allocator {facts['allocator']}; "
        f"load {_load(facts)}"
    )


def _load(facts: dict[str, Any]) -> str:
    return f"{facts['load'][0]:.1f}" if facts.get("load") else "unknown"


class Table:
    """Rows printed as they come, under one heading for each op."""

    widths = (34, 16, 8, 6, 8, 9, 9, 20, 8)

    def __init__(self) -> None:
        self.op: str | None = None

    def line(self, words: Iterable[str]) -> str:
        fitted = (word.ljust(w) if i in (0, 1, 7) else word.rjust(w) for i, (word, w) in enumerate(self._zip(words)))
        return "  ".join(fitted).rstrip()

    def _zip(self, words: Iterable[str]) -> Iterable[tuple[str, int]]:
        return zip(words, self.widths, strict=True)

    def heading(self) -> str:
        return self.line(HEAD) + "\n" + "-" * (sum(self.widths) + 2 * len(self.widths) - 2)

    def row(self, row: Row) -> str:
        title = [] if row.op == self.op else [f"{row.op}"]
        self.op = row.op
        lines = [*title, self.line(["  " + cells(row)[0], *cells(row)[1:]])]
        failed = {name: t.status for name, t in row.providers.items() if t.status != OK and not absent(t)}
        lines += [f"    {name}: {status}" for name, status in failed.items()]
        return "\n".join(lines)

    def print(self, row: Row) -> None:
        print(self.row(row), flush=True)


def legend(results: Results) -> str:
    rows = results.rows
    lines = ["eager, compile, others: their time over genkern's, so that more is better for genkern; median of rounds"]
    lines.append("copies: genkern's time over that of copy_ of x; roofline: share of the copy (or GEMM) rate")
    if any(map(loses, rows)):
        lines.append(f"{LOSES} genkern is slower there")
    noisy = sum(row.noisy for row in rows)
    if noisy:
        lines.append(
            f"{NOISE} the machine was busy: other programs had the core, or a copy's time varied ({noisy} rows)"
        )
    if noisy > TOO_NOISY * len(rows):
        lines.append(
            f"TOO NOISY: in {noisy} of {len(rows)} rows other programs disturbed; measure again when it is quiet"
        )
    load, cores = results.provenance["load"], results.provenance["cores"]
    if load and load[0] > cores:
        lines.append(f"the load was {load[0]:.1f} on {cores} cores: trust ratios, not milliseconds")
    missing = dict.fromkeys(name for row in rows for name, timed in row.providers.items() if absent(timed))
    if missing:
        lines.append(f"not installed, so not measured: {', '.join(missing)} (`make peers`, then --peers)")
    wrong = [row for row in rows if any(t.status.startswith("WRONG") for t in row.providers.values())]
    if wrong:
        lines.append(f"WRONG: values disagree with the float64 reference, so nothing was timed ({len(wrong)} rows)")
    return "\n".join(lines)


# -- markdown -------------------------------------------------------------------------------------------------------


def _markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(word.replace("|", "\\|") for word in line) + " |" for line in body]


def markdown(results: Results, plots: Sequence[str] = ()) -> str:
    """A whole report: every row, with spreads, what it takes to compile, and why others are faster where they are."""
    lines = ["# Benchmark", "", head(results).replace("\n", "  \n"), ""]
    lines += [legend(results).replace("\n", "  \n"), ""]
    for plot in plots:
        lines += [f"![{'distance from the roofline' if 'roofline' in plot else 'the same as a plot'}]({plot})", ""]
    machines = [results.machine, *results.machines]
    for i, (allocator, threads) in enumerate(results.conditions()):
        rows = [row for row in results.rows if (row.allocator, row.threads) == (allocator, threads)]
        lines += [f"## Allocator: {allocator}, {threads} threads", ""]
        lines += [f"{ceilings(machines[i])}.", ""] if i < len(machines) else []
        lines += _markdown_table(("op", *HEAD), ([row.op, *cells(row, wide=True)] for row in rows)) + [""]
        if found := losses(rows):
            lines += ["Slower, and why:", "", *reasons(found), ""]
    lines += ["## First calls", "", "Seconds until the first result; of torch.compile's, those spent compiling.", ""]
    lines += _markdown_table(
        ("op", "workload", "mode", "genkern", "eager", "compile", "of it compiling"),
        ([row.op, row.workload, row.mode, *_first_calls(row)] for row in results.usual()),
    )
    lines += ["", "## Memory", "", "Bytes kept for the backward pass / the most held at a time above the inputs.", ""]
    lines += _markdown_table(
        ("op", "workload", "mode", "genkern", "eager", "compile"),
        ([row.op, row.workload, row.mode, *_all_memory(row)] for row in results.usual()),
    )
    graphs = [row for row in results.rows if any(timed.graph for timed in row.providers.values())]
    if graphs:
        lines += ["", "## As CUDA graphs", ""]
        lines += _markdown_table(("op", "workload", "mode", "time"), (_graph_line(row) for row in graphs))
    return "\n".join([*lines, ""])


def _first_calls(row: Row) -> list[str]:
    found = [row.providers.get(name) for name in ("genkern", "eager", "compile")]
    return [*(seconds(t.first_call) if t else "–" for t in found), seconds(found[2].compile_time) if found[2] else "–"]


def _all_memory(row: Row) -> list[str]:
    found = [row.providers.get(name) for name in ("genkern", "eager", "compile")]
    return [f"{size(t.saved_bytes)} / {size(t.peak_bytes)}" if t else "–" for t in found]


def _graph_line(row: Row) -> list[str]:
    found = ", ".join(f"{name} {seconds(t.graph.median)}" for name, t in row.providers.items() if t.graph)
    return [row.op, row.workload, row.mode, found]

"""The README's table, written from committed results and from nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from .registry import FORWARD, TRAIN
from .report import LOSES, cell, others
from .results import Results
from .runner import Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
SOURCE = re.compile(r"\(bench/results/([^)\s]+\.json)\)")


def table(results: Results, source: str) -> str:
    """The block between the markers; ``source`` is the results' path from the repository's root."""
    facts = results.provenance
    rows = [row for row in results.rows if not row.launch and row.allocator == results.rows[0].allocator]
    lines = [
        "| op | workload | forward: eager | compile | forward+backward: eager | compile | others | copies |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op, workload in dict.fromkeys((row.op, row.workload) for row in rows):
        modes = {row.mode: row for row in rows if (row.op, row.workload) == (op, workload)}
        ratios = [
            cell(modes[mode], provider) if mode in modes else "–"
            for mode in (FORWARD, TRAIN)
            for provider in ("eager", "compile")
        ]
        last = next(iter(modes.values()))
        lines.append(f"| {op} | {workload} | {' | '.join(ratios)} | {others(last)} | {_copies(modes)} |")
    lines += [
        "",
        f"Time over genkern's, medians of interleaved rounds; {LOSES} where genkern is slower. *copies*: genkern's"
        f" time, forward / forward+backward, over that of a `copy_` of x. {facts['machine']},"
        f" {facts['threads']} threads, torch {facts['versions']['torch']}, {rows[0].dtype}, {facts['allocator']}"
        f" allocator, commit {facts['commit'] or 'unknown'}, {facts['date']}: [all figures]({source}).",
    ]
    return "\n".join(lines)


def _copies(modes: dict[str, Row]) -> str:
    found = [modes[mode].copies if mode in modes else None for mode in (FORWARD, TRAIN)]
    return " / ".join(f"{spread.median:.1f}" if spread else "–" for spread in found)


def block(text: str) -> str | None:
    """What stands between the markers of a README, or None."""
    if BEGIN not in text or END not in text:
        return None
    return text.split(BEGIN, 1)[1].split(END, 1)[0].strip("\n")


def write(results_path: str | Path, readme_path: str | Path) -> None:
    readme = Path(readme_path)
    text = readme.read_text()
    if block(text) is None:
        raise ValueError(f"bench: {readme} has no {BEGIN} … {END}.")
    source = Path(results_path).resolve().relative_to(readme.resolve().parent).as_posix()
    before, rest = text.split(BEGIN, 1)
    new = table(Results.load(results_path), source)
    readme.write_text(f"{before}{BEGIN}\n{new}\n{END}{rest.split(END, 1)[1]}")

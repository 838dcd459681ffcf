"""The README's table, written from committed results and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .registry import FORWARD, TRAIN, is_op
from .report import LOSES, cell, losses, others, reasons, rivals
from .results import Results
from .runner import Row

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
SOURCE = re.compile(r"\(bench/results/([^)\s]+\.json)\)")


def table(results: Results, source: str) -> str:
    """The block between the markers; ``source`` is the results' path from the repository's root.

    One row for each op, that of its first workload, then those of layers and models; below it everything that loses,
    whatever the workload, and why.
    """
    facts = results.provenance
    rows = [row for row in results.usual() if not row.launch]
    page = f"{source.removesuffix('.json')}.md"
    counted = sum(len(rivals(row)) for row in rows)
    lost = losses(rows)
    lines = [
        *_lines([row for row in rows if is_op(row.op)], "op"),
        *_lines([row for row in rows if not is_op(row.op)], "layer or model"),
        f"Time over genkern's, medians of interleaved rounds; {LOSES} where genkern is slower. *copies*: genkern's"
        f" time, forward / forward+backward, over that of a `copy_` of x. {facts['machine']},"
        f" {facts['threads']} threads, torch {facts['versions']['torch']}, {rows[0].dtype}, {facts['allocator']}"
        f" allocator, commit {facts['commit'] or 'unknown'}, {facts['date']}."
        f" [All rows]({page}), [as JSON]({source}).",
        "",
        f"Slower than someone in {len(lost)} of {counted} comparisons{':' if lost else '.'}",
        "",
        *reasons(lost),
        *([""] if lost else []),
        f"![time of the others over genkern's]({source.removesuffix('.json')}.png)",
    ]
    return "\n".join(lines)


def _lines(rows: Sequence[Row], what: str) -> list[str]:
    lines = [
        f"| {what} | workload | forward: eager | compile | forward+backward: eager | compile | others | copies |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first = {row.op: row.workload for row in reversed(rows)}
    for op in dict.fromkeys(row.op for row in rows):
        modes = {row.mode: row for row in rows if (row.op, row.workload) == (op, first[op])}
        ratios = [
            cell(modes[mode], provider) if mode in modes else "–"
            for mode in (FORWARD, TRAIN)
            for provider in ("eager", "compile")
        ]
        beside = next((text for text in map(others, reversed(modes.values())) if text != "–"), "–")
        lines.append(f"| {op} | {first[op]} | {' | '.join(ratios)} | {beside} | {_copies(modes)} |")
    return [*lines, ""] if rows else []


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

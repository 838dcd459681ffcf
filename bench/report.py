"""What was measured, for people: a terminal table and a markdown page. Rows that lose are shown and marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .registry import TRAIN
from .results import Results
from .runner import OK, Row
from .timing import Spread

LOSES, NOISE = "▼", "~"
TIE = 0.98  # a ratio below it is a loss
HEAD = ("workload", "mode", "genkern", "copies", "roofline", "eager", "compile", "others", "saved")


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
    return times(timed.ratio, wide) if timed.status == OK else timed.status.split(":")[0]


def others(row: Row, wide: bool = False) -> str:
    rivals = [name for name in row.providers if name not in ("genkern", "eager", "compile")]
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
    found = [size(ours.saved_bytes)] if row.mode == TRAIN else []
    found += [f"peak {size(ours.peak_bytes)}"] if ours.peak_bytes is not None else []
    return ", ".join(found) or "–"


def loses(row: Row) -> bool:
    return any(ratio.median < TIE for ratio in rivals(row).values())


def rivals(row: Row) -> dict[str, Spread]:
    """Ratios of those who are not genkern, nor genkern in another form."""
    return {n: t.ratio for n, t in row.providers.items() if not n.startswith("genkern") and t.ratio is not None}


# -- terminal -------------------------------------------------------------------------------------------------------


def head(results: Results) -> str:
    facts, machine = results.provenance, results.machine
    rates = (
        f"copy {machine.copy_bytes_per_second / 1e9:.3g} GB/s, GEMM {machine.gemm_flops_per_second / 1e9:.4g} GFLOP/s"
    )
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
        lines += [f"    {name}: {timed.status}" for name, timed in row.providers.items() if timed.status != OK]
        return "\n".join(lines)


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
    load, cores = results.provenance["load"], results.provenance["cores"]
    if load and load[0] > cores:
        lines.append(f"the load was {load[0]:.1f} on {cores} cores: trust ratios, not milliseconds")
    wrong = [row for row in rows if any(t.status.startswith("WRONG") for t in row.providers.values())]
    if wrong:
        lines.append(f"WRONG: values disagree with the float64 reference, so nothing was timed ({len(wrong)} rows)")
    return "\n".join(lines)


# -- markdown -------------------------------------------------------------------------------------------------------


def _markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(word.replace("|", "\\|") for word in line) + " |" for line in body]


def markdown(results: Results, plot: str | None = None) -> str:
    """A whole report: every row, with spreads, and what it takes to compile."""
    lines = ["# Benchmark", "", head(results).replace("\n", "  \n"), ""]
    lines += [f"![ratios]({plot})", ""] if plot else []
    for allocator in dict.fromkeys(row.allocator for row in results.rows):
        rows = [row for row in results.rows if row.allocator == allocator]
        lines += [f"## Allocator: {allocator}", ""]
        lines += _markdown_table(("op", *HEAD), ([row.op, *cells(row, wide=True)] for row in rows)) + [""]
    compiled = [(row, row.providers["compile"].first_call) for row in results.rows if "compile" in row.providers]
    lines += ["## First call of torch.compile", ""]
    lines += _markdown_table(
        ("op", "workload", "mode", "first call"), ([r.op, r.workload, r.mode, seconds(t)] for r, t in compiled)
    )
    graphs = [row for row in results.rows if any(timed.graph for timed in row.providers.values())]
    if graphs:
        lines += ["", "## As CUDA graphs", ""]
        lines += _markdown_table(("op", "workload", "mode", "time"), (_graph_line(row) for row in graphs))
    return "\n".join([*lines, "", legend(results).replace("\n", "  \n"), ""])


def _graph_line(row: Row) -> list[str]:
    found = ", ".join(f"{name} {seconds(t.graph.median)}" for name, t in row.providers.items() if t.graph)
    return [row.op, row.workload, row.mode, found]

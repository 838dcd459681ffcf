"""Results as pictures: ratios to the others, and growth with the size beside the roofline. Needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .report import NOISE, head
from .results import Results
from .runner import Row, Timed

COLUMNS = 5  # small pictures beside each other


def picture(results: Results, path: str | Path) -> None:
    """The plot that fits: growth of a sweep, else ratios."""
    (growth if any(row.sweep for row in results.rows) else ratios)(results, path)


def ratios(results: Results, path: str | Path) -> None:
    """Time of the others over genkern's, each workload in the last of its modes, on a log axis."""
    pyplot = _pyplot()

    rows = [row for row in results.rows if not row.launch and row.providers["genkern"].time]
    rows = list({(row.op, row.workload): row for row in rows if row.allocator == rows[0].allocator}.values())
    names = [f"{row.op}  {row.workload}{' ' + NOISE if row.noisy else ''}" for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.19 * len(rows)), layout="constrained")
    styles = {"eager": ("o", "#9aa5b1"), "compile": ("D", "#2f6f9f"), "others": ("^", "#c46a2b")}
    for label, (marker, colour) in styles.items():
        found = [(i, timed.ratio) for i, row in enumerate(rows) for timed in _timed(row, label) if timed.ratio]
        middles = [ratio.median for _, ratio in found]
        low = [max(ratio.median - ratio.p20, 0) for _, ratio in found]
        high = [max(ratio.p80 - ratio.median, 0) for _, ratio in found]
        at = [i for i, _ in found]
        axes.errorbar(
            middles, at, xerr=[low, high], fmt=marker, color=colour, markersize=4, elinewidth=0.8, label=label
        )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), names, fontsize=6)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("time over genkern's (right of 1: genkern is faster)")
    axes.set_title(head(results).splitlines()[0], fontsize=8)
    axes.legend(fontsize=7, loc="upper right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _timed(row: Row, label: str) -> list[Timed]:
    if label != "others":
        return [row.providers[label]] if label in row.providers else []
    return [timed for name, timed in row.providers.items() if name not in ("genkern", "eager", "compile")]


def growth(results: Results, path: str | Path) -> None:
    """Time over the bytes that the definition moves, for each op in the last of its modes; the roofline below it."""
    pyplot = _pyplot()
    rows = [row for row in results.rows if row.providers["genkern"].time and row.allocator == results.rows[0].allocator]
    ops = list(dict.fromkeys(row.op for row in rows))
    height = math.ceil(len(ops) / COLUMNS)
    figure, grid = pyplot.subplots(
        height, COLUMNS, figsize=(14, 0.6 + 2.3 * height), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(ops) :]:
        axes.axis("off")
    for op, axes in zip(ops, grid.flat, strict=False):
        mine = list({row.workload: row for row in rows if row.op == op}.values())
        mine.sort(key=lambda row: row.bytes_moved)
        for name, colour in (("eager", "#9aa5b1"), ("genkern", "#2f6f9f")):
            found = [(row.bytes_moved, _median(row.providers.get(name))) for row in mine]
            at = [(x, y) for x, y in found if y is not None]
            axes.plot([x for x, _ in at], [y for _, y in at], "o-", color=colour, markersize=3, linewidth=1, label=name)
        floor = [(row.bytes_moved, row.roofline * _median(row.providers["genkern"])) for row in mine if row.roofline]
        axes.plot([x for x, _ in floor], [y for _, y in floor], ":", color="black", linewidth=1, label="roofline")
        axes.set(xscale="log", yscale="log")
        axes.minorticks_off()
        axes.set_title(f"{op}, {mine[-1].mode}", fontsize=7)
        axes.tick_params(labelsize=6)
        axes.grid(linewidth=0.3)
    grid[0][0].legend(fontsize=6)
    figure.supxlabel("bytes that the definition reads and writes", fontsize=8)
    figure.supylabel("seconds", fontsize=8)
    figure.suptitle(head(results).splitlines()[0], fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _median(timed: Timed | None) -> Any:
    return timed.time.median if timed and timed.time else None


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot

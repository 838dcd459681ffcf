"""Results as pictures: ratios to the others, distance from the roofline, and growth with the size. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .registry import is_op
from .report import LOSES, NOISE, TIE, ceilings, losses, rivals, seconds, size
from .results import Results
from .runner import Row, Timed
from .timing import Spread

GREY, BLUE, ORANGE, INK = "#b3bcc5", "#2f6f9f", "#d08a4a", "#22303c"
RED = "#b3362b"
COLUMNS = 4  # small pictures beside each other
SHOWN = 5e5  # bytes: with fewer a call takes longer than the memory


def pictures(results: Results, path: str | Path) -> list[Path]:
    """Writes the plots that fit, the first at ``path``: of a sweep its growth, else ratios and rooflines."""
    path = Path(path)
    if any(row.sweep for row in results.rows):
        growth(results, path)
        return [path]
    ratios(results, path)
    beside = path.with_name(f"{path.stem}-roofline{path.suffix}")
    rooflines(results, beside)
    return [path, beside]


# -- ratios ---------------------------------------------------------------------------------------------------------


def ratios(results: Results, path: str | Path) -> None:
    """Time over genkern's of eager, compiled and the fastest other, each workload in the last of its modes."""
    pyplot = _pyplot()
    rows = _last_modes(row for row in results.usual() if not row.launch)
    rows = [row for row in rows if is_op(row.op)] + [row for row in rows if not is_op(row.op)]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.36 * len(rows)), layout="constrained")
    farthest = 1.0
    for i, row in enumerate(rows):
        bars = _bars(row)
        if i % 2:
            axes.axhspan(i - 0.5, i + 0.5, color="#f4f6f8", linewidth=0)
        for k, (name, colour, ratio) in enumerate(bars):
            at = i + 0.26 * (k - (len(bars) - 1) / 2)
            lost = ratio.median < TIE
            axes.barh(at, ratio.median - 1, 0.22, left=1, color=colour)
            axes.plot([ratio.p20, ratio.p80], [at, at], color=INK, linewidth=0.7, alpha=0.6)
            label = f"{ratio.median:.2g}× {name}" if ratio.median < 100 else f"{ratio.median:.0f}× {name}"
            far = max(ratio.p80, 1.0) * 1.04
            axes.text(far, at, label, va="center", fontsize=6, color=RED if lost else INK)
            farthest = max(farthest, far)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    lowest = min((ratio.p20 for row in rows for *_, ratio in _bars(row)), default=1.0)
    axes.set_xlim(min(0.9 * lowest, 0.7), farthest * 2.2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    ticks = [t for t in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256) if 0.9 * lowest <= t <= farthest * 2]
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", linewidth=0.4, color="#d5dbe0")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel("time over genkern's: right of 1, genkern is faster", fontsize=8)
    axes.set_title(f"{results.provenance['machine']}, {results.provenance['threads']} threads", fontsize=9, loc="left")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in (GREY, BLUE, ORANGE)]
    names = ["eager PyTorch", "torch.compile", "the fastest of the others"]
    axes.legend(handles, names, fontsize=7.5, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(row: Row) -> list[tuple[str, str, Spread]]:
    found = rivals(row)
    bars = [("", colour, found[name]) for name, colour in (("eager", GREY), ("compile", BLUE)) if name in found]
    others = {name: ratio for name, ratio in found.items() if name not in ("eager", "compile")}
    if others:
        name = min(others, key=lambda name: others[name].median)
        bars.append((name, ORANGE, others[name]))
    return bars


def _name(row: Row) -> str:
    workload = row.workload if len(row.workload) < 40 else f"{row.workload[:38]}…"
    return f"{row.op}  {workload}{' ' + NOISE if row.noisy else ''}{' ' + LOSES if losses([row]) else ''}"


# -- rooflines ------------------------------------------------------------------------------------------------------


def rooflines(results: Results, path: str | Path) -> None:
    """The rate of every row under what the machine does at best: a copy of as many bytes, or a matrix product."""
    pyplot = _pyplot()
    rows = [row for row in results.usual() if not row.launch and row.providers["genkern"].time and row.roofline]
    memory = [row for row in rows if not row.flops and is_op(row.op) and row.bytes_moved >= SHOWN]
    arithmetic = [row for row in rows if row.flops]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(14, 7.5), layout="constrained", width_ratios=(3, 2))
    styles = {"forward": ("o", BLUE), "forward+backward": ("s", ORANGE)}

    for row in memory:
        marker, colour = styles[row.mode]
        rate = row.bytes_moved / _seconds(row)
        best = rate / (row.roofline or 1.0)
        left.plot([row.bytes_moved] * 2, [rate / 1e9, best / 1e9], color=colour, linewidth=0.6, alpha=0.5)
        left.plot(row.bytes_moved, best / 1e9, "_", color=INK, markersize=7)
        left.plot(row.bytes_moved, rate / 1e9, marker, color=colour, markersize=5)
    left.axhline(results.machine.copy_bytes_per_second / 1e9, color=INK, linewidth=0.8, linestyle=":")
    left.set_xlabel("bytes that the definition reads and writes", fontsize=9)
    left.set_ylabel("GB/s", fontsize=9)
    left.set_title(
        "bound by memory (from 0.5 MB): a dash is a copy of as many bytes, in the same rounds", fontsize=9, loc="left"
    )
    _labels(left, [(row.bytes_moved, row.bytes_moved / _seconds(row) / 1e9, row.op) for row in memory])

    points = [(row.flops / row.bytes_moved, row.flops / _seconds(row) / 1e9, row) for row in arithmetic]
    for x, y, row in points:
        marker, colour = styles[row.mode]
        right.plot(x, y, marker, color=colour, markersize=5)
    if points:
        xs = [min(p[0] for p in points) / 2, max(p[0] for p in points) * 2]
        grid = [xs[0] * (xs[1] / xs[0]) ** (i / 60) for i in range(61)]
        copy, gemm = results.machine.copy_bytes_per_second / 1e9, results.machine.gemm_flops_per_second / 1e9
        right.plot(grid, [min(copy * x, gemm) for x in grid], color=INK, linewidth=1)
        _labels(right, [(x, y, row.op) for x, y, row in points])
    right.set_xlabel("operations for each byte", fontsize=9)
    right.set_ylabel("GFLOP/s", fontsize=9)
    right.set_title("bound by arithmetic, under copy and GEMM of the same run", fontsize=9, loc="left")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.grid(linewidth=0.3, color="#d5dbe0")
        axes.tick_params(labelsize=8, which="both")
        axes.xaxis.set_major_formatter((lambda value, _: size(round(value))) if axes is left else "{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("" if axes is left else "{x:g}")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = [pyplot.Line2D([], [], marker=m, color=c, linestyle="", label=mode) for mode, (m, c) in styles.items()]
    left.legend(handles=handles, fontsize=8, frameon=False, loc="lower right")
    figure.suptitle(f"{results.provenance['machine']}: {ceilings(results.machine)}", fontsize=10)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _labels(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """A name for each op, once, beside its slowest point, pushed down where it would lie on another."""
    slowest = {name: min((p for p in points if p[2] == name), key=lambda p: p[1]) for _, _, name in points}
    taken: list[tuple[float, float]] = []
    for x, y, name in sorted(slowest.values(), key=lambda p: -p[1]):
        at = math.log10(y)
        while any(abs(at - other) < 0.045 and abs(math.log10(x) - place) < 0.55 for place, other in taken):
            at -= 0.01
        taken.append((math.log10(x), at))
        axes.plot([x, x * 1.05], [y, 10**at], color=INK, linewidth=0.5)
        axes.annotate(name, (x * 1.06, 10**at), fontsize=6.5, color=INK, va="center")


# -- growth ---------------------------------------------------------------------------------------------------------


def growth(results: Results, path: str | Path) -> None:
    """Time over the bytes that the definition moves, for each op in the last of its modes; the roofline below it.

    Shaded is where the call and not the work takes the time; the exponent is that of the last step in size.
    """
    pyplot = _pyplot()
    rows = [row for row in results.usual() if row.providers["genkern"].time]
    ops = list(dict.fromkeys(row.op for row in rows))
    height = math.ceil(len(ops) / COLUMNS)
    figure, grid = pyplot.subplots(
        height, COLUMNS, figsize=(13, 0.8 + 2.5 * height), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(ops) :]:
        axes.axis("off")
    for op, axes in zip(ops, grid.flat, strict=False):
        _one_growth(axes, op, _last_modes(row for row in rows if row.op == op))
    grid[0][0].legend(fontsize=7.5, frameon=False)
    figure.supxlabel("bytes that the definition reads and writes", fontsize=9)
    facts = results.provenance
    note = "shaded: the call takes the time, not the work"
    figure.suptitle(f"{facts['machine']}, {facts['threads']} threads; {ceilings(results.machine)}; {note}", fontsize=10)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _one_growth(axes: Any, op: str, mine: list[Row]) -> None:
    mine.sort(key=lambda row: row.bytes_moved)
    ours = [_seconds(row) for row in mine]
    bytes_ = [row.bytes_moved for row in mine]
    short = [b for b, t in zip(bytes_, ours, strict=True) if t < 1.5 * ours[0]]
    if len(short) > 1:
        axes.axvspan(short[0], short[-1], color="#eef1f4", linewidth=0)
    eager = [(row.bytes_moved, t.time.median) for row in mine if (t := row.providers.get("eager")) and t.time]
    axes.plot(
        [x for x, _ in eager], [y for _, y in eager], "o-", color=GREY, markersize=3.5, linewidth=1.2, label="eager"
    )
    axes.plot(bytes_, ours, "o-", color=BLUE, markersize=3.5, linewidth=1.4, label="genkern")
    floor = [(row.bytes_moved, row.roofline * t) for row, t in zip(mine, ours, strict=True) if row.roofline]
    axes.plot([x for x, _ in floor], [y for _, y in floor], ":", color=INK, linewidth=1, label="roofline")
    exponent = ""
    if len(mine) > 1 and bytes_[-1] > bytes_[-2]:
        amount = [row.flops or row.bytes_moved for row in mine]
        exponent = f", n^{math.log(ours[-1] / ours[-2]) / math.log(amount[-1] / amount[-2]):.2f}"
    axes.set(xscale="log", yscale="log")
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: size(round(value)))
    axes.yaxis.set_major_formatter(lambda value, _: seconds(value))
    axes.set_title(f"{op}{' (forward)' if mine[-1].mode == 'forward' else ''}{exponent}", fontsize=8.5, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(linewidth=0.3, color="#d5dbe0")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _last_modes(rows: Any) -> list[Row]:
    return list({(row.op, row.workload): row for row in rows if row.providers["genkern"].time}.values())


def _seconds(row: Row) -> float:
    time = _time(row.providers["genkern"])
    assert time is not None
    return time.median


def _time(timed: Timed) -> Spread | None:
    return timed.time


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot

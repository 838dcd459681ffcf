"""Two results side by side: what became slower."""

from __future__ import annotations

from .registry import FORWARD
from .results import Results
from .runner import Row


def key(row: Row) -> tuple[str, ...]:
    return (row.op, row.workload, row.mode, row.device, row.dtype, row.allocator, f"{row.threads} threads")


def changes(before: Results, after: Results) -> list[tuple[Row, float]]:
    """Rows of both, with genkern's time after over before, the slowest first.

    Times are in copies where both have them: that takes out most of what the machine did meanwhile.
    """
    old = {key(row): row for row in before.rows}
    found = []
    for row in after.rows:
        was = old.get(key(row))
        if was is None:
            continue
        if row.copies and was.copies and not row.launch:
            found.append((row, row.copies.median / was.copies.median))
        elif (now := row.providers["genkern"].time) and (then := was.providers["genkern"].time):
            found.append((row, now.median / then.median))
    return sorted(found, key=lambda change: -change[1])


def compare(before: Results, after: Results, fail_ratio: float | None = None) -> tuple[str, bool]:
    """A table, and whether any row of the same machine is slower than ``fail_ratio`` times what it was."""
    lines, failed = [], False
    if before.provenance["machine"] != after.provenance["machine"]:
        lines.append(f"different machines: {before.provenance['machine']}; {after.provenance['machine']}")
    found = changes(before, after)
    for row, change in found:
        slower = fail_ratio is not None and change > fail_ratio
        failed |= slower
        mode = "fwd" if row.mode == FORWARD else "fwd+bwd"
        mark = "  slower" if slower else ""
        lines.append(f"{change:6.2f}×  {row.op} {row.workload}, {mode}, {row.allocator}, {row.threads} threads{mark}")
    missing = {key(row) for row in before.rows} - {key(row) for row in after.rows}
    lines += [f"  gone   {' '.join(name)}" for name in sorted(missing)]
    if not found:
        lines.append("no row is in both")
    return "\n".join(lines), failed

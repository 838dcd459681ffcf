"""Wrong names get the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not known: it offers the nearest one, and else lists them all.

    >>> print(unknown("model", "glow-smal", ["glow", "glow-small", "nice"]))
    unknown model 'glow-smal'; did you mean 'glow-small'?
    """
    choices = sorted(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1)
    if near:
        return ValueError(f"unknown {kind} {name!r}; did you mean {near[0]!r}?")
    return ValueError(f"unknown {kind} {name!r}; choose from {', '.join(choices) or 'none'}.")

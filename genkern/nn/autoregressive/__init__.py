"""Networks whose outputs depend on the inputs before them alone."""

from .made import MADE, MaskedLinear

__all__ = ["MADE", "MaskedLinear"]

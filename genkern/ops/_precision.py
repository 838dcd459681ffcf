"""What a bijection needs of PyTorch's own kernels: the arithmetic of its dtype."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def ieee_convolutions(x: Tensor) -> Iterator[None]:
    """On CUDA, convolutions in float32, which cuDNN otherwise rounds to ten bits: an inverse would undo another map."""
    if not x.is_cuda or torch.compiler.is_compiling():
        yield
        return
    settings = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before

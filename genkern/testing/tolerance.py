"""The tolerance rule that every kernel obeys, and equality bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def assert_within_rule(kernel: Tensor, plain: Tensor, truth: Tensor, *, what: str = "value") -> None:
    """Error of the kernel <= 2 x the error of plain PyTorch in the same dtype + 1 ulp, in the largest element.

    In float64 the truth rounds as plain PyTorch does, so 32 ulp are allowed there.

    Args:
        kernel: what is tested.
        plain: the same computed by PyTorch from the same inputs in the same dtype.
        truth: the same computed in float64.
        what: the name used in the message.
    """
    assert kernel.shape == truth.shape, f"{what}: shape {list(kernel.shape)}, wanted {list(truth.shape)}"
    assert kernel.dtype == plain.dtype, f"{what}: dtype {kernel.dtype}, wanted {plain.dtype}"
    if not truth.numel():
        return
    assert kernel.isfinite().all() or not truth.isfinite().all(), f"{what}: not finite"
    error = (kernel.double() - truth).abs().max().item()
    plain_error = (plain.double() - truth).abs().max().item()
    ulps = 32 if kernel.dtype == torch.float64 else 1
    ulp = ulps * torch.finfo(kernel.dtype).eps * truth.abs().max().item()
    assert error <= 2 * plain_error + ulp, f"{what}: error {error:.3g}, plain PyTorch {plain_error:.3g}, ulp {ulp:.3g}"


def assert_same_bits(left: Any, right: Any, *, what: str = "value") -> None:
    """Equal element by element, NaN equal to NaN."""
    for a, b in zip(tensors_of(left), tensors_of(right), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, f"{what}: {a.dtype} {a.shape} against {b.dtype} {b.shape}"
        assert torch.equal(a.nan_to_num(1234.0), b.nan_to_num(1234.0)), f"{what}: {(a != b).sum()} elements differ"


def tensors_of(tree: Any) -> list[Tensor]:
    leaves: list[Tensor] = []
    tree_map(lambda leaf: leaves.append(leaf) if isinstance(leaf, Tensor) else None, tree)
    return leaves

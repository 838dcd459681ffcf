"""The loss of a denoising network on GPUs, noise drawn again in registers, without fusion into fma."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime
from ..q_sample.triton import TILE, _noise, in_order_of, plan
from ..random.triton import EXACT


@triton.jit
def _residual(output, x0, key, at, row, p, q, sample_offset, keep, ACC: tl.constexpr, ROWS: tl.constexpr,
              TILE: tl.constexpr):  # fmt: skip
    """output - (p x0 + q noise), 0 outside; x0 is not read where p is 0."""
    noise = _noise(key, row, sample_offset, ROWS, TILE).to(ACC)
    clean = tl.load(x0 + at, keep & (p != 0), other=0).to(ACC)
    prediction = tl.load(output + at, keep, other=0).to(ACC)
    return tl.where(keep, prediction - (p * clean + q * noise), 0.0), noise


# one program: ROWS samples x TILE elements
@triton.jit
def _forward(output, x0, of_x0, of_noise, key, squares, batch, elements, sample_offset, ACC: tl.constexpr,
             ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    p = tl.load(of_x0 + row, row < batch, other=0)
    q = tl.load(of_noise + row, row < batch, other=0)
    r, _ = _residual(output, x0, key, row * elements + element, row, p, q, sample_offset, keep, ACC, ROWS, TILE)
    total = tl.sum(r * r, axis=1)[:, None]
    tl.store(squares + row * tl.num_programs(1) + tl.program_id(1), total, row < batch)


# one program: ROWS samples x TILE elements
@triton.jit
def _backward(grad, output, x0, of_x0, of_noise, key, grad_output, grad_x0, grad_p, grad_q, batch, elements,
              sample_offset, NEEDS_OUTPUT: tl.constexpr, NEEDS_X0: tl.constexpr, NEEDS_P: tl.constexpr,
              NEEDS_Q: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]  # [ROWS, 1]
    element = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)[None, :]  # [1, TILE]
    keep = (row < batch) & (element < elements)
    at = row * elements + element
    part = row * tl.num_programs(1) + tl.program_id(1)
    p = tl.load(of_x0 + row, row < batch, other=0)
    q = tl.load(of_noise + row, row < batch, other=0)
    c = tl.load(grad + row, row < batch, other=0) * 2.0 / elements.to(ACC)
    r, noise = _residual(output, x0, key, at, row, p, q, sample_offset, keep, ACC, ROWS, TILE)
    if NEEDS_OUTPUT:
        tl.store(grad_output + at, (c * r).to(grad_output.dtype.element_ty), keep)
    if NEEDS_X0:
        tl.store(grad_x0 + at, (-p * c * r).to(grad_x0.dtype.element_ty), keep)
    if NEEDS_P:
        clean = tl.load(x0 + at, keep, other=0).to(ACC)
        tl.store(grad_p + part, -tl.sum((c * r * clean).to(tl.float64), axis=1)[:, None], row < batch)
    if NEEDS_Q:
        tl.store(grad_q + part, -tl.sum((c * r * noise).to(tl.float64), axis=1)[:, None], row < batch)


def diffusion_loss(
    output: Tensor, x0: Tensor, of_x0: Tensor, of_noise: Tensor, key: Tensor, sample_offset: int
) -> Tensor:
    if not output.numel():
        return output.new_zeros(output.shape[0], dtype=_triton.wide(output))
    sizes, grid, constants = plan(output)
    squares = of_x0.new_empty(sizes[0], grid[1])
    inputs = (value.contiguous() for value in (output, x0, of_x0, of_noise))
    _forward[grid](*inputs, key, squares, *sizes, sample_offset, **constants)
    return squares.sum(1) / sizes[1]


def diffusion_loss_backward(
    grad: Tensor, output: Tensor, x0: Tensor, of_x0: Tensor, of_noise: Tensor, key: Tensor, sample_offset: int,
    needs_output: bool = True, needs_x0: bool = True, needs_of_x0: bool = True, needs_of_noise: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    inputs, needs = (output, x0, of_x0, of_noise), (needs_output, needs_x0, needs_of_x0, needs_of_noise)
    if not output.numel():
        return tuple(like.new_zeros(like.shape if need else 0) for like, need in zip(inputs, needs, strict=True))
    sizes, grid, constants = plan(output)
    images = [like.new_empty(like.shape if need else 0) for like, need in zip(inputs[:2], needs[:2], strict=True)]
    shapes = [(sizes[0], grid[1]) if need else (0, 1) for need in needs[2:]]
    parts = [of_x0.new_empty(shape, dtype=torch.float64) for shape in shapes]
    _backward[grid](grad.contiguous(), *(value.contiguous() for value in inputs), key, *images, *parts, *sizes,
                    sample_offset, NEEDS_OUTPUT=needs_output, NEEDS_X0=needs_x0, NEEDS_P=needs_of_x0,
                    NEEDS_Q=needs_of_noise, **constants)  # fmt: skip
    ordered = [in_order_of(like, image) if need else image
               for like, image, need in zip(inputs[:2], images, needs[:2], strict=True)]  # fmt: skip
    return *ordered, *(part.sum(1).to(of_x0.dtype) for part in parts)


_CONSTANTS = {"ACC": tl.float32, "ROWS": 1, "TILE": TILE}
_INPUTS = {"output": "*bf16", "x0": "*bf16", "of_x0": "*fp32", "of_noise": "*fp32", "key": "*i64", "batch": "i64",
           "elements": "i64", "sample_offset": "i64"}  # fmt: skip
_GRADS = {"grad": "*fp32", "grad_output": "*bf16", "grad_x0": "*bf16", "grad_p": "*fp64", "grad_q": "*fp64"}
AHEAD_OF_TIME = [
    AheadOfTime(_forward, _INPUTS | {"squares": "*fp32"}, _CONSTANTS, EXACT),
    AheadOfTime(
        _backward,
        _INPUTS | _GRADS,
        {"NEEDS_OUTPUT": True, "NEEDS_X0": True, "NEEDS_P": True, "NEEDS_Q": True} | _CONSTANTS,
        EXACT,
    ),
]

"""The gated activation on GPUs: one pass over x and its terms, with partial sums over the sites of each tile."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _triton
from .._triton import AheadOfTime

TILE = 1024


@triton.jit
def _halves(x, link, bias, condition, b, c, s, keep, channels, xb, xc, xs, lb, lc, ls, BIAS: tl.constexpr,
            CONDITION: tl.constexpr, LINK: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """(a, g) of a tile."""
    at = x + b * xb + c * xc + s * xs
    a = tl.load(at, keep, other=0).to(ACC)
    g = tl.load(at + channels * xc, keep, other=0).to(ACC)
    if LINK:
        at = link + b * lb + c * lc + s * ls
        a += tl.load(at, keep, other=0).to(ACC)
        g += tl.load(at + channels * lc, keep, other=0).to(ACC)
    if BIAS:
        a += tl.load(bias + c, c < channels, other=0).to(ACC)
        g += tl.load(bias + channels + c, c < channels, other=0).to(ACC)
    if CONDITION:
        at = condition + b * 2 * channels + c
        a += tl.load(at, c < channels, other=0).to(ACC)
        g += tl.load(at + channels, c < channels, other=0).to(ACC)
    return a, g


@triton.jit
def _sigmoid(g):
    """sigma(g), and the smaller and the larger of sigma(g) and sigma(-g)."""
    e = _triton.exp(-tl.abs(g))
    large = 1.0 / (1.0 + e)
    return tl.where(g < 0, e * large, large), e * large, large


# one program: a sample, CHANNELS channels of each half x SITES sites
@triton.jit
def _forward(x, bias, condition, link, y, channels, sites, xb, xc, xs, lb, lc, ls, yb, yc, ys, BIAS: tl.constexpr,
             CONDITION: tl.constexpr, LINK: tl.constexpr, ACC: tl.constexpr, CHANNELS: tl.constexpr,
             SITES: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    c = (tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS))[:, None]
    s = (tl.program_id(2).to(tl.int64) * SITES + tl.arange(0, SITES))[None, :]
    keep = (c < channels) & (s < sites)
    a, g = _halves(x, link, bias, condition, b, c, s, keep, channels, xb, xc, xs, lb, lc, ls, BIAS, CONDITION, LINK,
                   ACC)  # fmt: skip
    value = _triton.tanh(a) * _sigmoid(g)[0]
    tl.store(y + b * yb + c * yc + s * ys, value.to(y.dtype.element_ty), keep)


@triton.jit
def _backward(grad_y, x, bias, condition, link, grad_x, grad_link, sums, channels, sites, gb, gc, gs, xb, xc, xs,
              lb, lc, ls, qb, qc, qs, kb, kc, ks, BIAS: tl.constexpr, CONDITION: tl.constexpr, LINK: tl.constexpr,
              WRITE_X: tl.constexpr, WRITE_LINK: tl.constexpr, SUM: tl.constexpr, ACC: tl.constexpr,
              CHANNELS: tl.constexpr, SITES: tl.constexpr):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    c = (tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS))[:, None]
    s = (tl.program_id(2).to(tl.int64) * SITES + tl.arange(0, SITES))[None, :]
    keep = (c < channels) & (s < sites)
    a, g = _halves(x, link, bias, condition, b, c, s, keep, channels, xb, xc, xs, lb, lc, ls, BIAS, CONDITION, LINK,
                   ACC)  # fmt: skip
    t = _triton.tanh(a)
    sigma, small, large = _sigmoid(g)
    gy = tl.load(grad_y + b * gb + c * gc + s * gs, keep, other=0).to(ACC)
    grad_a = gy * sigma * (1.0 - t * t)
    grad_g = gy * t * small * large
    if WRITE_X:
        at = grad_x + b * qb + c * qc + s * qs
        tl.store(at, grad_a.to(grad_x.dtype.element_ty), keep)
        tl.store(at + channels * qc, grad_g.to(grad_x.dtype.element_ty), keep)
    if WRITE_LINK:
        at = grad_link + b * kb + c * kc + s * ks
        tl.store(at, grad_a.to(grad_link.dtype.element_ty), keep)
        tl.store(at + channels * kc, grad_g.to(grad_link.dtype.element_ty), keep)
    if SUM:
        at = sums + (b * tl.num_programs(2) + tl.program_id(2)) * 2 * channels + c
        tl.store(at, tl.sum(grad_a, axis=1)[:, None], c < channels)
        tl.store(at + channels, tl.sum(grad_g, axis=1)[:, None], c < channels)


_ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def _plan(x: Tensor) -> tuple[tuple[int, int], tuple[int, int, int], dict[str, Any]]:
    """Channels and sites, the grid, and the tile."""
    channels, sites = x.shape[1] // 2, x.shape[2:].numel()
    if _triton.strides(x)[2] == 1 or sites == 1:  # runs of sites
        site_tile = min(TILE, triton.next_power_of_2(sites))
        channel_tile = min(TILE // site_tile, triton.next_power_of_2(channels))
    else:
        channel_tile = min(128, triton.next_power_of_2(channels))
        site_tile = min(TILE // channel_tile, triton.next_power_of_2(sites))
    grid = x.shape[0], triton.cdiv(channels, channel_tile), triton.cdiv(sites, site_tile)
    return (channels, sites), grid, {"CHANNELS": channel_tile, "SITES": site_tile, "ACC": _ACC[_triton.wide(x)]}


def _dense(
    x: Tensor, bias: Tensor, condition: Tensor, link: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor], dict[str, bool]]:
    """Terms that kernels can read, x in the place of those that are absent, and which are there."""
    x = _triton.collapsible(x)
    given = {"BIAS": bias.shape[0] > 0, "CONDITION": condition.dim() > 1, "LINK": link.dim() > 1}
    bias = bias.contiguous() if given["BIAS"] else x
    condition = condition.contiguous() if given["CONDITION"] else x
    link = _triton.collapsible(link) if given["LINK"] else x
    return (x, bias, condition, link), (bias, condition, link), given


def gated_activation(x: Tensor, bias: Tensor, condition: Tensor, link: Tensor) -> Tensor:
    (x, bias, condition, link), _, given = _dense(x, bias, condition, link)
    y = torch.empty_like(x[:, : x.shape[1] // 2])
    y = y if not x.numel() or _triton.strides(y)[2] != 0 else y.contiguous()
    if x.numel():
        sizes, grid, constants = _plan(x)
        _forward[grid](x, bias, condition, link, y, *sizes, *_triton.strides(x), *_triton.strides(link),
                       *_triton.strides(y), **given, **constants)  # fmt: skip
    return y


def gated_activation_backward(
    grad_y: Tensor, x: Tensor, bias: Tensor, condition: Tensor, link: Tensor, needs_x: bool = True,
    needs_bias: bool = True, needs_condition: bool = True, needs_link: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    like_bias, like_condition, like_link = bias, condition, link
    (x, bias, condition, link), _, given = _dense(x, bias, condition, link)
    grad_y = _triton.collapsible(grad_y)
    needs_bias, needs_condition = needs_bias and given["BIAS"], needs_condition and given["CONDITION"]
    needs_link = needs_link and given["LINK"]
    grad_x = torch.empty_like(x) if needs_x else x.new_empty(0)
    grad_link = torch.empty_like(link) if needs_link else x.new_empty(0)
    if not x.numel():
        grads = (torch.zeros_like(like_bias), torch.zeros_like(like_condition))
        return (
            grad_x,
            grads[0] if needs_bias else x.new_empty(0),
            grads[1] if needs_condition else x.new_empty(0),
            (grad_link),
        )
    sizes, grid, constants = _plan(x)
    sums = x.new_empty(grid[0], grid[2], x.shape[1], dtype=_triton.wide(x))
    strides = [*_triton.strides(grad_y), *_triton.strides(x), *_triton.strides(link)]
    strides += [*_triton.strides(grad_x if needs_x else x), *_triton.strides(grad_link if needs_link else x)]
    _backward[grid](grad_y, x, bias, condition, link, grad_x, grad_link, sums, *sizes, *strides, **given,
                    WRITE_X=needs_x, WRITE_LINK=needs_link, SUM=needs_bias or needs_condition, **constants)  # fmt: skip
    absent = x.new_empty(0)
    of_samples = sums.sum(1) if needs_bias or needs_condition else absent
    grad_bias = of_samples.sum(0).to(like_bias.dtype) if needs_bias else absent
    grad_condition = of_samples.to(like_condition.dtype) if needs_condition else x.new_empty(0)
    return grad_x, grad_bias, grad_condition, grad_link if like_link.dim() > 1 else x.new_empty(0)


def _ahead_of_time(kernel: Any, **extra: Any) -> AheadOfTime:
    flags = {"BIAS": True, "CONDITION": True, "LINK": True, **extra}
    constants = flags | {"ACC": tl.float32, "CHANNELS": 1, "SITES": TILE}
    names = ("x", "bias", "condition", "link", "y", "grad_y", "grad_x", "grad_link")
    pointers = dict.fromkeys(names, "*bf16") | {"sums": "*fp32"}
    signature = {name: pointers.get(name, "i64") for name in kernel.arg_names if name not in constants}
    return AheadOfTime(kernel, signature, constants)


AHEAD_OF_TIME = [_ahead_of_time(_forward), _ahead_of_time(_backward, WRITE_X=True, WRITE_LINK=True, SUM=True)]

"""The recurrences of PixelRNN: their definition by hand, what a cell sees, and the generated suite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkern.ops import diagonal_lstm, row_lstm
from genkern.ops.diagonal_lstm.reference import skew, unskew
from genkern.testing import Case, OpSuite


class TestDiagonalLSTM(OpSuite):
    cases = [Case("wide", diagonal_lstm, {"x": (3, 12, 3, 5), "weight": (12, 3, 2)}, batched=False)]


class TestTallDiagonalLSTM(OpSuite):
    cases = [Case("tall", diagonal_lstm, {"x": (2, 20, 4, 2), "weight": (20, 5, 2)}, batched=False)]


class TestRowLSTM(OpSuite):
    cases = [Case("rows", row_lstm, {"x": (3, 8, 4, 5), "weight": (8, 2, 3)}, batched=False)]


def inputs(hidden: int, taps: int, *size: int, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 4 * hidden, *size), (4 * hidden, hidden, taps)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def cell_by_cell(x: Tensor, weight: Tensor, diagonal: bool) -> Tensor:
    """The docstring's formula, one cell at a time."""
    batch, _, height, width = x.shape
    hidden, taps = weight.shape[1:]
    zero = x.new_zeros(batch, hidden)
    h: dict[tuple[int, int], Tensor] = {}
    c: dict[tuple[int, int], Tensor] = {}
    for r in range(height):
        for s in range(width):
            seen = [(r - 1, s), (r, s - 1)] if diagonal else [(r - 1, s + k - taps // 2) for k in range(taps)]
            sums = x[:, :, r, s]
            for k, place in enumerate(seen):
                sums = sums + h.get(place, zero) @ weight[:, :, k].T
            o, f, i, g = sums.chunk(4, dim=1)
            before = c.get((r, s - 1) if diagonal else (r - 1, s), zero)
            c[r, s] = f.sigmoid() * before + i.sigmoid() * g.tanh()
            h[r, s] = o.sigmoid() * c[r, s].tanh()
    rows = [torch.stack([h[r, s] for s in range(width)], dim=2) for r in range(height)]
    return torch.stack(rows, dim=2)


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (4, 4), (3, 7), (7, 3)])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_every_cell_follows_from_those_before_it_as_the_formula_says(impl, size, taps):
    x, weight = inputs(3, taps, *size)
    run = diagonal_lstm if taps == 2 else row_lstm
    torch.testing.assert_close(run(x, weight, impl=impl), cell_by_cell(x, weight, taps == 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [1, 4, 16, 24])
@pytest.mark.parametrize("batch", [0, 1, 7, 30])
@pytest.mark.parametrize("run", [diagonal_lstm, row_lstm])
def test_kernels_equal_the_definition_at_every_width_and_batch(hidden, batch, run):
    leaves = inputs(hidden, 2 if run is diagonal_lstm else 3, 5, 4, batch=batch)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    results = []
    for impl in ("auto", "torch"):
        h = run(*leaves, impl=impl)
        results.append((h, *torch.autograd.grad(h.sin().sum(), leaves, allow_unused=True, materialize_grads=True)))
    for kernel, definition in zip(*results, strict=True):
        torch.testing.assert_close(kernel, definition, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("run", [diagonal_lstm, row_lstm])
def test_a_cell_depends_on_all_above_and_left_of_it_or_on_a_triangle(run):
    height, width = 5, 6
    x, weight = inputs(2, 2 if run is diagonal_lstm else 3, height, width, batch=1)
    jacobian = torch.func.jacrev(lambda x: run(x, weight)[0].sum(0))(x)[:, :, 0].abs().sum(2)  # [H, W, H, W]
    for i in range(height):
        for j in range(width):
            for k in range(height):
                for m in range(width):
                    sees = k <= i and (m <= j if run is diagonal_lstm else abs(m - j) <= i - k)
                    assert (jacobian[i, j, k, m] > 0) == sees, (i, j, k, m)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (3, 5), (5, 3)])
def test_skewing_moves_row_i_by_i_columns_and_back(size):
    x = torch.arange(1.0, 1 + size[0] * size[1]).view(1, *size, 1)
    skewed = skew(x)
    assert skewed.shape == (1, size[0], sum(size) - 1, 1)
    for i in range(size[0]):
        assert torch.equal(skewed[0, i, i : i + size[1]], x[0, i]) and skewed[0, i].sum() == x[0, i].sum()
    assert torch.equal(unskew(skewed), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_raw_sums_of_a_hundred_give_finite_states_and_gradients(dtype):
    x, weight = (100 * tensor.sign() for tensor in inputs(4, 2, 4, 4, dtype=dtype))
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    h = diagonal_lstm(*leaves)
    grads = torch.autograd.grad(h.sum(), leaves)
    assert all(tensor.isfinite().all() for tensor in (h, *grads)) and h.abs().max() <= 1


def test_pictures_without_cells_give_none():
    for size in ((0, 3), (3, 0)):
        x, weight = (tensor.requires_grad_() for tensor in inputs(2, 2, *size))
        h = diagonal_lstm(x, weight)
        assert h.shape == (2, 2, *size)
        assert not torch.autograd.grad(h.sum(), weight)[0].any()


def test_complaints_name_the_argument():
    x, weight = inputs(3, 2, 4, 4)
    with pytest.raises(ValueError, match=r"diagonal_lstm: x must be \[B, 4h, H, W\]; got \[2, 11, 4, 4\]"):
        diagonal_lstm(x[:, 1:], weight)
    with pytest.raises(ValueError, match=r"weight must be \[4h, h, taps\]; got \[12, 2, 2\] \(x is \[2, 12, 4, 4\]\)"):
        diagonal_lstm(x, weight[:, 1:])
    with pytest.raises(ValueError, match=r"diagonal_lstm: weight must be \[4h, h, 2\]; got \[12, 3, 1\]"):
        diagonal_lstm(x, weight[..., :1])
    with pytest.raises(ValueError, match=r"row_lstm: weight must be \[4h, h, K\] with odd K; got \[12, 3, 2\]"):
        row_lstm(x, weight)
    with pytest.raises(TypeError, match="row_lstm: x must be float32, float64, bfloat16 or float16"):
        row_lstm(x.long(), weight[..., :1])

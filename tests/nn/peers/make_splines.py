"""Records values of the spline functions of nflows 0.14 (linear tails, and none) and normflows 1.7.3 (circular).

pip install --no-deps normflows==1.7.3 nflows==0.14 && python tests/nn/peers/make_splines.py
"""

from pathlib import Path

import torch
from nflows.transforms.splines import rational_quadratic as nflows
from normflows.utils import splines as normflows
from safetensors.torch import save_file
from torch import Tensor

BINS, BOUND, FEATURES = 5, 2.0, 3
SLOPES = {"linear": BINS - 1, "circular": BINS, "None": BINS + 1}
tensors: dict[str, Tensor] = {}


def peer(tails: str, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    raw = params.unflatten(1, (FEATURES, -1)).split([BINS, BINS, SLOPES[tails]], dim=2)
    if tails == "linear":
        return nflows.unconstrained_rational_quadratic_spline(x, *raw, inverse=inverse, tail_bound=BOUND)
    if tails == "circular":
        return normflows.unconstrained_rational_quadratic_spline(
            x, *raw, inverse=inverse, tails="circular", tail_bound=BOUND
        )
    ends = {"left": -BOUND, "right": BOUND, "bottom": -BOUND, "top": BOUND}
    return nflows.rational_quadratic_spline(x, *raw, inverse=inverse, **ends)


def main() -> None:
    torch.manual_seed(0)
    for tails, slopes in SLOPES.items():
        for inverse in (False, True):
            x = BOUND * (2 * torch.rand(20, FEATURES, dtype=torch.float64) - 1) * (1 if tails == "None" else 1.5)
            params = 1.5 * torch.randn(20, FEATURES * (2 * BINS + slopes), dtype=torch.float64)
            y, log_slope = peer(tails, x, params, inverse)
            part = f"{tails}/{'inverse' if inverse else 'forward'}"
            values = {"x": x, "params": params, "y": y, "log_det": log_slope.sum(1)}
            tensors.update({f"{part}/{name}": value.contiguous() for name, value in values.items()})
    save_file(tensors, str(Path(__file__).parent / "splines.safetensors"))


if __name__ == "__main__":
    main()

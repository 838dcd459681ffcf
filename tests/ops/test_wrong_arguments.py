"""Whatever is handed to an op in place of a tensor: it works, or the error says which function and which argument."""

import math
import re

import pytest
import torch

from genkern import ops, random


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


KEY, T = random.key(0), torch.tensor([0, 3])
X, TABLE = normal(2, 4), torch.rand(5)
VLB = ops.vlb_coefficients(torch.linspace(0.99, 0.01, 5, dtype=torch.float64), variance_type="learned_range")
PLU = dict(zip(("p", "lower", "upper", "log_s", "sign_s"), ops.plu_factors(normal(4, 4)), strict=True))
FOLDED = PLU | {"log_scale": normal(4), "bias": normal(4)}
NORM = {"log_scale": normal(3), "bias": normal(3), "running_mean": torch.zeros(3), "running_var": torch.ones(3)}
MADE = {"weight": normal(24), "bias": normal(8), "offset": X, "hidden": [4], "starts": [0, 0, 4], "order": [0, 1]}
PIXELS = torch.randint(0, 16, (2, 3, 3, 3))
STEP = {"unconditional": X, "previous": X, "log_variance": X, "threshold": torch.ones(2), "step": T}
CALLS = [
    (ops.actnorm, {"x": normal(2, 4, 3), "log_scale": normal(4), "bias": normal(4)}),
    (ops.affine_coupling, {"x": normal(2, 4, 3), "params": normal(2, 4, 3)}),
    (ops.affine_coupling, {"x": normal(2, 4, 3), "params": normal(2, 8, 3), "mask": normal(4, 3) > 0}),
    (ops.additive_coupling, {"x": normal(2, 4, 3), "shift": normal(2, 2, 3)}),
    (ops.categorical_sample, {"logits": normal(2, 4, 3), "noise": torch.rand(2, 3)}),
    (ops.categorical_sample, {"logits": normal(2, 4, 3), "key": KEY, "top_k": 2}),
    (ops.concat_elu, {"x": normal(2, 4, 3)}),
    (ops.dequantize, {"x": PIXELS, "levels": 16, "key": KEY, "alpha": 0.05}),
    (ops.dequantize, {"x": PIXELS, "levels": 16, "noise": torch.rand(2, 3, 3, 3)}),
    (ops.quantize, {"y": torch.rand(2, 4), "levels": 16}),
    (ops.logit_transform, {"y": torch.rand(2, 4)}),
    (ops.diagonal_lstm, {"x": normal(2, 8, 3, 3), "weight": normal(8, 2, 2)}),
    (ops.row_lstm, {"x": normal(2, 8, 3, 3), "weight": normal(8, 2, 3)}),
    (ops.diffusion_loss, {"output": X, "x0": X, "key": KEY, "weight": TABLE, "timesteps": T}),
    (ops.diffusion_loss, {"output": X, "x0": X, "noise": X}),
    (ops.diffusion_step, {"x": X, "model_output": X, "coefficients": torch.rand(9), "key": KEY, "out": X.clone()}),
    (ops.diffusion_step, {"x": X, "model_output": X, "coefficients": torch.rand(5, 9), "key": KEY} | STEP),
    (ops.diffusion_step, {"x": X, "model_output": X, "coefficients": torch.rand(9), "noise": X}),
    (ops.discretized_gaussian, {"x": X, "mean": X, "log_std": X}),
    (ops.vlb_term, {"x0": X, "x_t": X, "output": X, "variance": X, "coefficients": VLB, "timesteps": T}),
    (ops.vlb_coefficients, {"alphas_cumprod": TABLE}),
    (ops.discretized_mixture_logistics, {"params": normal(2, 20, 3, 3), "x": PIXELS, "levels": 16}),
    (ops.sample_discretized_mixture_logistics, {"params": normal(2, 20, 3, 3), "noise": torch.rand(2, 4, 3, 3)}),
    (ops.dynamic_threshold, {"x": X}),
    (ops.flow_batch_norm, {"x": normal(4, 3, 2), "training": True} | NORM),
    (ops.gated_activation, {"x": normal(2, 4, 3), "bias": normal(4), "condition": X, "link": normal(2, 4, 3)}),
    (ops.gaussian_kl, {"mean": X, "logvar": X, "prior_mean": X, "prior_logvar": X}),
    (ops.gaussian_log_prob, {"x": X, "mean": X, "log_std": X}),
    (ops.gumbel_softmax, {"logits": normal(2, 4, 3), "key": KEY, "dim": 1}),
    (ops.invertible_conv1x1, {"x": normal(2, 4, 3, 3), "weight": normal(4, 4), "bias": normal(4)}),
    (ops.langevin_step, {"x": X, "grad": X, "step": torch.rand(2), "scale": torch.rand(2), "key": KEY}),
    (ops.langevin_step, {"x": X, "grad": X, "step": 0.1, "noise": X}),
    (ops.langevin_snr_step, {"x": X, "grad": X, "snr": 0.16, "alpha": torch.rand(2), "key": KEY}),
    (ops.made_inverse, {"z": normal(2, 2)} | MADE),
    (ops.planar, {"x": normal(2, 3), "u": normal(3), "w": normal(3), "b": normal()}),
    (ops.radial, {"x": normal(2, 3), "center": normal(3), "raw_alpha": normal(), "raw_beta": normal()}),
    (ops.plu_weight, PLU),
    (ops.folded_plu_weight, FOLDED),
    (ops.plu_factors, {"weight": normal(4, 4)}),
    (ops.q_sample, {"x0": X, "alpha": TABLE, "sigma": TABLE, "timesteps": T, "key": KEY}),
    (ops.q_sample, {"x0": X, "alpha": 0.5, "sigma": 0.5, "noise": X, "out": X.clone()}),
    (ops.quantile_huber, {"x": X, "q": X, "tau": torch.rand(2, 4)}),
    (ops.rational_quadratic_spline, {"x": normal(2, 4, 3), "params": normal(2, 92, 3), "mask": normal(4, 3) > 0}),
    (ops.reparameterize, {"mean": X, "logvar": X, "prior_mean": X, "prior_logvar": X, "key": KEY}),
    (ops.simplex_noise, {"seeds": T, "size": (4, 4), "t": torch.rand(2)}),
    (ops.squeeze, {"x": normal(2, 3, 4, 4)}),
    (ops.unsqueeze, {"z": normal(2, 4, 2, 2)}),
    (ops.vq_assign, {"x": normal(6, 4), "codebook": normal(5, 4), "mask": torch.ones(6, dtype=torch.bool)}),
    (random.fold_in, {"key": KEY, "data": T}),
    (random.split, {"key": KEY}),
    (random.normal, {"key": KEY, "shape": (2, 3)}),
]
PLACES = [(f, given, name) for f, given in CALLS for name, value in given.items() if isinstance(value, torch.Tensor)]


def wrong(value):
    """What may be there in its place: other things, shapes, dtypes, devices and numbers."""
    others = [[1.0], "a", 1j, value.unsqueeze(0), value.unsqueeze(-1), value.flatten()[:1].squeeze(), value.to("meta")]
    others += [value.to(dtype) for dtype in (torch.bool, torch.int64, torch.complex64, torch.float16, torch.float64)]
    if value.dim():
        others += [value[0], value[:0], value[..., :0], torch.cat([value, value[:1]]), value.repeat_interleave(2, -1)]
    if value.is_floating_point():
        others += [torch.full_like(value, number) for number in (math.nan, math.inf, -math.inf, 1e30)]
    return others


@pytest.mark.parametrize(("function", "given", "name"), PLACES, ids=[f"{f.__name__}-{n}" for f, _, n in PLACES])
def test_it_works_or_the_error_names_function_and_argument(function, given, name):
    others = "|".join(given)
    for value in wrong(given[name]):
        arguments = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in given.items()} | {name: value}
        try:
            function(**arguments)
        except (TypeError, ValueError) as error:
            assert re.match(rf"{function.__name__}: ({others})\b", str(error)), f"{value!r}: {error}"

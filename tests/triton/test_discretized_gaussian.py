import pytest
import torch
from interpreted import assert_launchers_agree

from genkern.ops import discretized_gaussian, vlb_coefficients, vlb_term
from genkern.ops.discretized_gaussian import reference, triton
from genkern.testing import Case


def pixels(*shape):
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).double()
    return x * 2 / 255 - 1


def of_pixels(mean, log_std, x, **options):
    return discretized_gaussian(x.to(mean), mean, log_std - 2, **options)


def learned(x0, x_t, output, variance, **options):
    return vlb_term(x0, x_t, output, variance=variance, **options)


def table(variance_type, prediction_type="epsilon"):
    alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    known = vlb_coefficients(alphas_cumprod, variance_type=variance_type, prediction_type=prediction_type)
    return known[[0, 500, 3]]


IMAGES = ("x0", "x_t", "output", "variance")
BINS = {"mean": (3, 5, 7, 3), "log_std": (3, 5, 7, 3)}
CASES = [
    Case("erf", of_pixels, BINS, {"x": pixels(3, 5, 7, 3)}),
    Case("tanh", of_pixels, BINS, {"x": pixels(3, 5, 7, 3), "cdf": "tanh"}, scale=0.5),
    Case("free", discretized_gaussian, dict.fromkeys(("x", "mean", "log_std"), (2, 1100))),
    Case("fixed", vlb_term, dict.fromkeys(IMAGES[:3], (3, 41)), {"coefficients": table("fixed_large")}, scale=0.5),
    Case("learned", learned, dict.fromkeys(IMAGES, (3, 1100)), {"coefficients": table("learned_range", "v_prediction"),
                                                              "clip_denoised": False, "cdf": "tanh"}, scale=0.5),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_launchers_agree_with_the_definition(case, dtype):
    assert_launchers_agree(case, dtype)


def test_layouts_change_nothing():
    for layout in ("channels_last", "transposed", "strided"):
        assert_launchers_agree(CASES[0], torch.float32, layout)
        assert_launchers_agree(CASES[3], torch.float32, layout)


@pytest.mark.parametrize("cdf", ["erf", "tanh"])
@pytest.mark.parametrize("log_std", [-100.0, 100.0])
def test_extreme_scales_give_finite_values_and_gradients(log_std, cdf):
    x = torch.tensor([[-1.0, 0.2, 1.0]]).expand(3, 3)
    mean = torch.tensor([[0.2], [-100.0], [100.0]]).expand(3, 3)
    call = (x, mean, torch.full((3, 3), log_std), 256, cdf)
    torch.testing.assert_close(triton.discretized_gaussian(*call), reference.discretized_gaussian(*call))
    assert all(grad.isfinite().all() for grad in triton.discretized_gaussian_backward(torch.ones(3), *call))


def test_only_what_is_needed_is_computed():
    call = (torch.ones(3), *(pixels(3, 4).float() for _ in range(4)), table("learned_range").float(), True, 256, "erf")
    everything = triton.vlb_term_backward(*call)
    for i in range(4):
        alone = triton.vlb_term_backward(*call, *(i == j for j in range(4)))
        assert torch.equal(alone[i], everything[i]) and sum(grad.numel() for grad in alone) == 12

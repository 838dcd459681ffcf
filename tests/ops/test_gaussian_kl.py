import pytest
import torch

from genkern.ops import gaussian_kl, vlb_coefficients, vlb_term
from genkern.testing import Case, OpSuite

NAMES = ("mean", "logvar", "prior_mean", "prior_logvar")


class TestGaussianKl(OpSuite):
    cases = [
        Case("image", gaussian_kl, dict.fromkeys(NAMES, (3, 5, 7, 3))),
        Case("vector", gaussian_kl, dict.fromkeys(NAMES, (4, 70))),
        Case("long", gaussian_kl, dict.fromkeys(NAMES, (2, 3, 29, 53))),
        Case("standard", gaussian_kl, dict.fromkeys(NAMES[:2], (3, 33))),
        Case("shared", gaussian_kl, {"mean": (3, 4, 5), "logvar": (3, 1, 1), "prior_mean": (4, 1),
                                     "prior_logvar": ()}, batched=False),
    ]  # fmt: skip


def test_it_is_the_divergence_of_torch_distributions():
    m, v, n, w = torch.randn(4, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p, q = torch.distributions.Normal(m, (v / 2).exp()), torch.distributions.Normal(n, (w / 2).exp())
    expected = torch.distributions.kl_divergence(p, q).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_kl(m, v, n, w), expected)


def test_it_is_the_term_of_a_diffusion_models_bound():
    table = vlb_coefficients(torch.linspace(0.99, 0.01, 10, dtype=torch.float64))
    x0, x_t, output = torch.randn(3, 4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(
        -1, 1
    )
    steps = torch.tensor([1, 3, 6, 9])
    columns = table[steps].t().reshape(8, 4, 1, 1, 1)
    of_x_t, of_output, mean_x0, mean_x_t, logvar, prior_logvar = columns[:6]
    means = [mean_x0 * x + mean_x_t * x_t for x in (x0, (of_x_t * x_t + of_output * output).clamp(-1, 1))]
    kl = gaussian_kl(means[0], logvar, means[1], prior_logvar)
    torch.testing.assert_close(kl, vlb_term(x0, x_t, output, table, timesteps=steps))


def test_nearly_equal_gaussians_keep_their_digits():
    v = torch.full((1, 8), 1e-4)
    exact = gaussian_kl(torch.zeros(1, 8).double(), v.double(), impl="torch")
    assert abs(gaussian_kl(torch.zeros(1, 8), v).double() / exact - 1) < 1e-5


@pytest.mark.parametrize("logvar", [100.0, -100.0])
@pytest.mark.parametrize("prior_logvar", [100.0, -100.0])
@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_extreme_variances_give_no_nan(logvar, prior_logvar, impl):
    m, n = torch.tensor([[0.0, 1.0]]).requires_grad_(), torch.zeros(1, 2, requires_grad=True)
    v, w = (torch.full((1, 2), value, requires_grad=True) for value in (logvar, prior_logvar))
    kl = gaussian_kl(m, v, n, w, impl=impl)
    grads = torch.autograd.grad(kl.sum(), (m, v, n, w))
    assert all(tensor.isfinite().all() for tensor in (kl, *grads))
    assert logvar != prior_logvar or abs(kl.item() - gaussian_kl(m, v, n, w, impl="torch").item()) <= 1e-5 * kl.item()


def test_errors_name_the_argument():
    x = torch.zeros(8, 6)
    with pytest.raises(ValueError, match=r"gaussian_kl: logvar must be broadcastable to mean; got \[7, 6\]"):
        gaussian_kl(x, torch.zeros(7, 6))
    with pytest.raises(ValueError, match=r"gaussian_kl: prior_mean must be broadcastable to mean; got \[8\]"):
        gaussian_kl(x, x, torch.zeros(8))
    with pytest.raises(ValueError, match=r"gaussian_kl: mean must be \[B, \*\]"):
        gaussian_kl(torch.zeros(()), torch.zeros(()))
    with pytest.raises(TypeError, match="gaussian_kl: logvar must be a tensor; got float"):
        gaussian_kl(x, 0.0)
    with pytest.raises(TypeError, match="gaussian_kl: prior_logvar must be a tensor or a number; got str"):
        gaussian_kl(x, x, 0.0, "unit")

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from genkern import random
from genkern.ops import reparameterize
from genkern.testing import Case, OpSuite, assert_within_rule

KEY = {"key": random.key(3), "sample_offset": 2**32 - 1}
UNIT = ("mean", "logvar")
PRIOR = ("mean", "logvar", "prior_mean", "prior_logvar")


def against_a_mean(mean, logvar, prior_mean, **options):
    return reparameterize(mean, logvar, prior_mean, **options)


class TestReparameterize(OpSuite):
    cases = [
        Case("unit", reparameterize, dict.fromkeys(UNIT, (4, 3, 5, 7)), KEY),
        Case("unit-long", reparameterize, dict.fromkeys(UNIT, (2, 1500)), KEY),
        Case("unit-elements", reparameterize, dict.fromkeys(UNIT, (3, 33)), {**KEY, "kl": "element"}),
        Case("prior", reparameterize, dict.fromkeys(PRIOR, (3, 4, 5, 3)), KEY),
        Case("prior-elements", reparameterize, dict.fromkeys(PRIOR, (2, 1031)), {**KEY, "kl": "element"}),
        Case("shared", reparameterize, {**dict.fromkeys(UNIT, (3, 4, 5)), "prior_mean": (4, 1), "prior_logvar": ()},
             KEY, batched=False),
        Case("prior-mean", against_a_mean, dict.fromkeys(PRIOR[:3], (5, 9)), KEY),
    ]  # fmt: skip


def parameters(shape, count=4, dtype=torch.float32, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).unbind()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_noise_is_that_of_an_unfused_call(dtype):
    for shape in ((5, 3, 7, 5), (3, 2051), (300, 3), (7, 64), (9,)):
        zero = torch.zeros(shape, dtype=dtype)
        z, _ = reparameterize(zero, zero, key=random.key(1), sample_offset=5)
        assert torch.equal(z, random.normal(random.key(1), shape, sample_offset=5).to(dtype))
        z, _ = reparameterize(zero, zero, zero, zero, key=random.key(1), sample_offset=5)
        assert torch.equal(z, random.normal(random.key(1), shape, sample_offset=5).to(dtype))


def test_the_divergence_is_that_of_torch_distributions():
    mean, logvar, prior_mean, prior_logvar = parameters((6, 5, 4), dtype=torch.float64)
    posterior = Normal(mean, (0.5 * logvar).exp())
    z, kl = reparameterize(mean, logvar, key=random.key(0))
    expected = kl_divergence(posterior, Normal(0.0, 1.0))
    torch.testing.assert_close(kl, expected.flatten(1).sum(1))
    torch.testing.assert_close(reparameterize(mean, logvar, kl="element", key=random.key(0))[1], expected)
    _, kl = reparameterize(mean, logvar, prior_mean, prior_logvar, key=random.key(0))
    torch.testing.assert_close(
        kl, kl_divergence(posterior, Normal(prior_mean, (0.5 * prior_logvar).exp())).flatten(1).sum(1)
    )
    log_ratio = posterior.log_prob(z) - Normal(0.0, 1.0).log_prob(z)
    assert (log_ratio - expected).flatten(1).sum(1).mean().abs() < 5  # one draw: an estimate of the same number


def test_the_divergence_of_a_nearly_collapsed_posterior_keeps_its_digits():
    mean, logvar = 1e-3 * torch.ones(1, 64), 1e-3 * torch.ones(1, 64)
    truth = reparameterize(mean.double(), logvar.double(), kl="element", impl="torch")[1]
    for prior in ((), (torch.zeros(1, 64), torch.zeros(1, 64))):
        kl = reparameterize(mean, logvar, *prior, kl="element")[1]
        torch.testing.assert_close(kl.double(), truth, rtol=1e-3, atol=0)


@pytest.mark.parametrize("impl", ["auto", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_parameters_have_finite_values_and_gradients(dtype, impl):
    extremes = torch.tensor([-100.0, 0.0, 100.0], dtype=dtype)
    given = [x.reshape(-1, 1).requires_grad_() for x in torch.cartesian_prod(*[extremes] * 4).T]
    for arguments in (given[:2], given):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in arguments]
        z, kl = reparameterize(*leaves, key=random.key(0), impl=impl)
        grads = torch.autograd.grad([z.sum(), kl.sum()], leaves)
        assert all(tensor.isfinite().all() for tensor in (z, kl, *grads))
        assert (kl >= 0).all()
        wide = torch.stack([leaf.detach().flatten() for leaf in leaves])[1] == 100  # far too wide: pulled back
        if len(leaves) == 2:
            assert (grads[1].flatten()[wide] > 0).all()


def test_chunks_of_one_tensor_are_read_where_they_lie():
    h = torch.randn(5, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    mean, logvar = h.chunk(2, dim=1)
    found = reparameterize(mean, logvar, key=random.key(0))
    for a, b in zip(found, reparameterize(mean.contiguous(), logvar.contiguous(), key=random.key(0)), strict=True):
        assert torch.equal(a, b)


def test_parts_of_a_batch_are_the_batch():
    mean, logvar = parameters((11, 3, 5), 2)
    whole = reparameterize(mean, logvar, key=random.key(4))
    parts = [
        reparameterize(mean[i:j], logvar[i:j], key=random.key(4), sample_offset=i) for i, j in ((0, 1), (1, 7), (7, 11))
    ]
    for a, b in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(a, torch.cat(b))


def test_a_generator_gives_the_key_and_vmap_over_keys_draws_anew():
    mean, logvar = parameters((4, 5), 2)
    again = [reparameterize(mean, logvar, generator=torch.Generator().manual_seed(5))[0] for _ in range(2)]
    assert torch.equal(*again)
    keys = random.split(random.key(0), 3)
    z = torch.vmap(lambda key: reparameterize(mean, logvar, key=key)[0])(keys)
    torch.testing.assert_close(z, torch.stack([reparameterize(mean, logvar, key=key)[0] for key in keys]))


def test_only_the_inputs_are_saved():
    saved = []
    mean, logvar = (x.requires_grad_() for x in parameters((8, 100), 2))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        reparameterize(mean, logvar, key=random.key(0))
    assert sum(saved) == 2 * 800 + 1


def test_backward_without_one_of_the_outputs():
    mean, logvar = (x.requires_grad_() for x in parameters((3, 70), 2))
    for output in (0, 1):
        found = torch.autograd.grad(reparameterize(mean, logvar, key=random.key(0))[output].sum(), (mean, logvar))
        plain = [x.detach().double().requires_grad_() for x in (mean, logvar)]
        truth = torch.autograd.grad(reparameterize(*plain, key=random.key(0), impl="torch")[output].sum(), plain)
        for a, b in zip(found, truth, strict=True):
            assert_within_rule(a, b.float(), b)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, v: reparameterize(m, v[:1]), ValueError, r"logvar must be of the shape of mean; got \[1, 4\]"),
        (lambda m, v: reparameterize(m, v, v[:, :2]), ValueError, "prior_mean must be broadcastable to mean"),
        (lambda m, v: reparameterize(m, v, kl="batch"), ValueError, "kl must be one of .* got 'batch'"),
        (lambda m, v: reparameterize(m, v, key=3), TypeError, "key must be an int64 tensor; got int"),
        (lambda m, v: reparameterize(m, v, sample_offset=-1), ValueError, "sample_offset must be at least 0; got -1"),
        (lambda m, v: reparameterize(m.int(), v), TypeError, "mean must be float32, .* got torch.int32"),
        (lambda m, v: reparameterize(m, v, impl="fast"), ValueError, "impl must be 'auto' or 'torch', got 'fast'"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call(*parameters((3, 4), 2))

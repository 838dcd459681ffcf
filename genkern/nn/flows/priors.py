"""Base distributions of flows: what the latents are distributed as."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ... import ops, random


class Prior(nn.Module):
    """A density of latents ``[B, *shape]`` that can be evaluated and sampled.

    Args:
        shape: that of one latent.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape = tuple(shape)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density in nats, ``[B]``, float32 or wider."""
        raise NotImplementedError(f"{type(self).__name__} does not define log_prob.")

    def _check(self, z: Tensor) -> None:
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"{type(self).__name__}: z must be {['B', *self.shape]}; got {list(z.shape)}.")

    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        sample_offset: int = 0,
        context: Tensor | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """``n`` latents, of which each depends on the key and its index (from ``sample_offset`` on) alone.

        A temperature below 1 shrinks them towards the mode, or towards the mode of their component or class.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define sample.")

    def extra_repr(self) -> str:
        return f"{self.shape}"


class StandardNormal(Prior):
    """Independent normal components of mean 0 and deviation 1; the context is ignored.

    Args:
        shape: that of one latent.

    >>> prior = StandardNormal((3, 8, 8))
    >>> prior.log_prob(prior.sample(4, key=random.key(0))).shape
    torch.Size([4])
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        self._check(z)
        return ops.gaussian_log_prob(z)

    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        sample_offset: int = 0,
        context: Tensor | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return temperature * random.normal(key, (n, *self.shape), dtype=dtype, sample_offset=sample_offset)


class StandardLogistic(Prior):
    r"""Independent logistic components of mean 0 and scale 1; the context is ignored.

    .. math:: \log p(z) = -\sum \ln(1 + e^{z}) + \ln(1 + e^{-z})

    Args:
        shape: that of one latent.

    Dinh et al. 2014 (arXiv:1410.8516), section 3.4.

    >>> StandardLogistic((2,)).log_prob(torch.zeros(1, 2))  # 2 ln 1/4
    tensor([-2.7726])
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        self._check(z)
        z = z if z.dtype == torch.float64 else z.float()
        return -(softplus(z) + softplus(-z)).flatten(1).sum(1)

    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        sample_offset: int = 0,
        context: Tensor | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return temperature * random.uniform(key, (n, *self.shape), dtype=dtype, sample_offset=sample_offset).logit()


class _Gaussians(Prior):
    """Diagonal Gaussians of learned means and deviations, ``[count, *shape]``, one of which each sample comes from."""

    def __init__(self, shape: tuple[int, ...], count: int, name: str):
        super().__init__(shape)
        if count < 1:
            raise ValueError(f"{type(self).__name__}: {name} must be at least 1; got {count}.")
        self.mean = nn.Parameter(torch.zeros(count, *self.shape))
        self.log_std = nn.Parameter(torch.zeros(count, *self.shape))

    def log_weights(self) -> Tensor:
        """Log-probability of each Gaussian, ``[count]``."""
        raise NotImplementedError

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        """Log-density under each Gaussian, ``[B, count]``."""
        self._check(z)
        each = zip(self.mean, self.log_std, strict=True)
        return torch.stack([ops.gaussian_log_prob(z, mean, log_std) for mean, log_std in each], dim=1)

    def marginal(self, z: Tensor) -> Tensor:
        each = self.log_prob_of_each(z)
        return (each + self.log_weights().to(each.dtype)).logsumexp(1)

    def draw_from(
        self, index: Tensor, key: Tensor, sample_offset: int, temperature: float, dtype: torch.dtype
    ) -> Tensor:
        """One sample of the Gaussian of each index."""
        shape = (len(index), *self.shape)
        noise = random.normal(random.split(key)[1], shape, dtype=dtype, sample_offset=sample_offset)
        mean, log_std = (parameter.to(dtype) for parameter in self._of(index))
        return mean + temperature * log_std.exp() * noise

    def _of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of the Gaussian of each index; a negative one is an error, not the last one's."""
        return self.mean.index_select(0, index), self.log_std.index_select(0, index)


class MixtureOfGaussians(_Gaussians):
    r"""A learned mixture of diagonal Gaussians; the context is ignored.

    .. math:: \log p(z) = \log \sum_k \pi_k\, \mathcal{N}(z; m_k, e^{2 s_k})

    Args:
        shape: that of one latent.
        components: how many; their means start at random, their deviations at 1 and their weights equal.

    The component is drawn by inverting the cumulative distribution at a uniform number of the key's. Papamakarios et
    al. 2017 (arXiv:1705.07057), section 4.

    >>> prior = MixtureOfGaussians((2,), components=10)
    >>> z = prior.sample(4, key=random.key(0))
    """

    def __init__(self, shape: tuple[int, ...], components: int):
        super().__init__(shape, components, "components")
        self.logits = nn.Parameter(torch.zeros(components))
        nn.init.normal_(self.mean)

    def log_weights(self) -> Tensor:
        return self.logits.to(torch.promote_types(self.logits.dtype, torch.float32)).log_softmax(0)

    def draw_index(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """Which component each sample comes from, ``[n]``, by the inverse of the cumulative distribution."""
        chosen = random.split(key)[0]
        ends = self.log_weights().detach().double().exp().cumsum(0)
        u = random.uniform(chosen, (n,), dtype=torch.float64, sample_offset=sample_offset)
        return torch.searchsorted(ends / ends[-1], u, right=True).clamp(max=len(ends) - 1)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.marginal(z)

    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        sample_offset: int = 0,
        context: Tensor | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        index = self.draw_index(n, key=key, sample_offset=sample_offset)
        return self.draw_from(index, key, sample_offset, temperature, dtype)


def draw_labels(classes: int, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
    """``n`` labels, evenly drawn from ``[0, classes)``: the ones that a class-conditional prior draws of this key."""
    u = random.uniform(random.split(key)[0], (n,), dtype=torch.float64, sample_offset=sample_offset)
    return (u * classes).long().clamp(max=classes - 1)


class ClassConditionalGaussian(_Gaussians):
    r"""A diagonal Gaussian for each class, a standard normal at first; without labels their even mixture.

    .. math:: p(z \mid c) = \mathcal{N}(z; m_c, e^{2 s_c}), \qquad p(z) = \frac{1}{C} \sum_c p(z \mid c)

    Args:
        shape: that of one latent.
        classes: :math:`C`. The context is the labels, int64 ``[B]`` in ``[0, C)``; None: the marginal density, and
            samples of classes that are drawn evenly.

    Kingma & Dhariwal 2018 (arXiv:1807.03039): the learned prior of their code when it is given labels.

    >>> prior = ClassConditionalGaussian((2,), classes=10)
    >>> prior.log_prob(torch.randn(4, 2), torch.tensor([3, 1, 4, 1])).shape
    torch.Size([4])
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(shape, classes, "classes")
        self.classes = classes

    def log_weights(self) -> Tensor:
        return self.mean.new_full((self.classes,), -math.log(self.classes), dtype=torch.float32)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None:
            return self.marginal(z)
        self._check(z)
        if context.shape != z.shape[:1] or context.is_floating_point():
            wanted, came = f"labels [{len(z)}]", f"{context.dtype} {list(context.shape)}"
            raise ValueError(f"ClassConditionalGaussian: context must be {wanted}; got {came}.")
        return ops.gaussian_log_prob(z, *self._of(context))

    def sample(
        self,
        n: int,
        *,
        key: Tensor,
        sample_offset: int = 0,
        context: Tensor | None = None,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        if context is None:
            context = draw_labels(self.classes, n, key=key, sample_offset=sample_offset)
        return self.draw_from(context, key, sample_offset, temperature, dtype)

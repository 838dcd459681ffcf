"""Adversarial Autoencoders. Makhzani et al. 2016 (arXiv:1511.05644).

An autoencoder whose codes an adversary holds to a prior that need only be sampled: a Gaussian, a mixture of Gaussians
around a circle, or a swiss roll (figure 2). In each step the autoencoder learns to reconstruct and to pass its codes
off as draws from the prior, and the discriminator to tell them apart; the encoder is deterministic. There is no
likelihood of data: what is evaluated is the reconstruction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ... import random
from ...nn import pixel_likelihood
from .._base import Batch, GenerativeModel, Loss, Player, as_batch
from . import conv_vae
from ._base import PAIRS, PATHS, STEPS, check_picture

PRIORS = ("gaussian", "mixture", "swiss-roll")
REACH, CELLS, DRAWS = 4.0, 96, 50_000  # of the picture of codes in the plane


@dataclass(frozen=True)
class Config:
    shape: tuple[int, ...] = (3, 32, 32)
    levels: int | None = 256
    latents: int = 64  # of a code; 2 for a mixture and a swiss roll
    prior: str = "gaussian"
    components: int = 10  # of the mixture
    channels: tuple[int, ...] = (64, 128, 256)  # of encoder and decoder, after each halving of the picture
    hidden: int = 512
    critic: int = 512  # units of each of the discriminator's two hidden layers
    likelihood: str = "mixture"
    weight: float = 0.05  # of the adversary's term beside the reconstruction, in bits per dimension
    rate: float = 0.5  # of the discriminator, times that of the autoencoder
    momentum: float = 0.5  # Adam's first beta


def gaussian(n: int, latents: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
    return random.normal(key, (n, latents), sample_offset=sample_offset)


def mixture(n: int, components: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
    """Gaussians around a circle, drawn out along its radii."""
    which, place = random.split(key)
    u = random.uniform(which, (n, 1), sample_offset=sample_offset)
    angle = (u * components).floor() * (2 * math.pi / components)
    along, across = random.normal(place, (n, 2), sample_offset=sample_offset).split(1, dim=1)
    radius, side = 2 + 0.5 * along, 0.1 * across
    return torch.cat([radius * angle.cos() - side * angle.sin(), radius * angle.sin() + side * angle.cos()], dim=1)


def swiss_roll(n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
    """Two turns of a spiral, evenly along its length, with a little width."""
    along, across = random.split(key)
    turn = random.uniform(along, (n, 1), sample_offset=sample_offset).sqrt()  # its length grows as the square
    angle = 4 * math.pi * turn
    spiral = 2.5 * turn * torch.cat([angle.cos(), angle.sin()], dim=1)
    return spiral + 0.05 * random.normal(across, (n, 2), sample_offset=sample_offset)


def counts_in_the_plane(z: Tensor) -> Tensor:
    """How many of the points ``[N, 2]`` fall into each cell of the square of half side ``REACH``, the top row first."""
    column, row = ((z.clamp(-REACH, REACH).float() / REACH + 1) * (0.5 * CELLS)).long().clamp(max=CELLS - 1).unbind(1)
    counts = torch.bincount((CELLS - 1 - row) * CELLS + column, minlength=CELLS * CELLS)
    return counts.view(CELLS, CELLS).float()


class AAE(GenerativeModel):
    config_class = Config

    def __init__(self, config: Config):
        super().__init__(config)
        check_picture("AAE", config)
        if config.prior not in PRIORS:
            raise ValueError(f"AAE: prior must be one of {PRIORS}; got {config.prior!r}.")
        if config.prior != "gaussian" and config.latents != 2:
            raise ValueError(f"AAE: latents must be 2 for the prior {config.prior!r}; got {config.latents}.")
        self.likelihood = pixel_likelihood(config.likelihood, config.shape[0], config.levels or 2)
        networks = conv_vae.Config(config.shape, config.levels, config.latents, config.channels, config.hidden)
        self.encoder = conv_vae.encoder(networks, config.latents)
        self.decoder = conv_vae.decoder(networks, self.likelihood.parameters_per_pixel)
        self.critic = nn.Sequential(
            nn.Linear(config.latents, config.critic), nn.LeakyReLU(0.2),
            nn.Linear(config.critic, config.critic), nn.LeakyReLU(0.2),
            nn.Linear(config.critic, 1),
        )  # fmt: skip

    # -- the players --------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        betas = (self.config.momentum, 0.999)
        autoencoder = [*self.encoder.parameters(), *self.decoder.parameters()]
        return {
            "discriminator": Player(list(self.critic.parameters()), rate=self.config.rate, betas=betas),
            "autoencoder": Player(autoencoder, betas=betas),
        }

    def loss_of(self, player: str, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The discriminator's cross-entropy, or the reconstruction and what the codes do to deceive it."""
        x = as_batch(batch).x
        z = self.encode(x)
        if player == "discriminator":
            key = random.key_from(device=x.device) if key is None else key
            real = self.critic(self.draw_prior(len(x), key=key, sample_offset=sample_offset).to(z.dtype))
            fake = self.critic(z.detach())
            guessed = 0.5 * ((real > 0).float().mean() + (fake < 0).float().mean())
            return Loss(softplus(-real).mean() + softplus(fake).mean(), {"guessed": guessed})
        deceit = softplus(-self.critic(z)).mean()
        reconstruction = self._bits_per_dim(z, x).mean()
        terms = {"reconstruction": reconstruction.detach(), "deceit": deceit.detach()}
        return Loss(reconstruction + self.config.weight * deceit, terms)

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The reconstruction alone, in bits per dimension given the code: what runs are compared by."""
        x = as_batch(batch).x
        bits = self._bits_per_dim(self.encode(x), x).mean()
        return Loss(bits, {"reconstruction": bits.detach()})

    def _bits_per_dim(self, z: Tensor, x: Tensor) -> Tensor:
        return -self.likelihood.log_prob(self.decoder(z), x) / (x[0].numel() * math.log(2))

    # -- codes and pictures -------------------------------------------------------------------------------------

    def encode(self, x: Tensor) -> Tensor:
        """The code of each picture, ``[B, latents]``."""
        if tuple(x.shape[1:]) != tuple(self.config.shape):
            raise ValueError(f"AAE: x must be {['B', *self.config.shape]}; got {list(x.shape)}.")
        return self.encoder(x.to(next(self.parameters()).dtype) * (2 / (self.config.levels - 1)) - 1)

    def decode(
        self, z: Tensor, *, key: Tensor | None = None, temperature: float = 1.0, sample_offset: int = 0
    ) -> Tensor:
        """Integer pixels of codes: drawn, or without a key the likeliest."""
        params = self.decoder(z)
        if key is None:
            key, temperature = random.key(0, device=params.device), 0.0
        return self.likelihood.sample(params, key=key, temperature=temperature, sample_offset=sample_offset)

    def draw_prior(self, n: int, *, key: Tensor, sample_offset: int = 0) -> Tensor:
        """``n`` codes from the prior, ``[n, latents]``."""
        if self.config.prior == "gaussian":
            return gaussian(n, self.config.latents, key=key, sample_offset=sample_offset)
        if self.config.prior == "mixture":
            return mixture(n, self.config.components, key=key, sample_offset=sample_offset)
        return swiss_roll(n, key=key, sample_offset=sample_offset)

    @torch.no_grad()
    def sample(self, n: int, *, key: Tensor, temperature: float = 1.0, sample_offset: int = 0) -> Tensor:
        """``n`` pictures: of codes from the prior, the pixels drawn at the temperature (0: the likeliest)."""
        for_codes, for_pixels = random.split(key)
        z = self.draw_prior(n, key=for_codes, sample_offset=sample_offset).to(next(self.parameters()).dtype)
        return self.decode(z, key=for_pixels, temperature=temperature, sample_offset=sample_offset)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    @torch.no_grad()
    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``reconstructions``: pairs of data and what comes back; ``interpolation``: a path between two in each row.

        Of codes in the plane also ``codes``: the prior's density, and the codes of ``x`` upon it.
        """
        pairs = torch.stack([x[:PAIRS], self.reconstruct(x[:PAIRS]).to(x)], dim=1).flatten(0, 1)
        first, last = self.encode(x[:PATHS]), self.encode(x[PATHS : 2 * PATHS])
        ways = [self.decode(torch.lerp(first, last, i / (STEPS - 1))) for i in range(STEPS)]
        found = {"reconstructions": pairs, "interpolation": torch.stack(ways, dim=1).flatten(0, 1)}
        if self.config.latents == 2:
            density = counts_in_the_plane(self.draw_prior(DRAWS, key=key))
            density = (density / density.max()).sqrt()
            upon = torch.where(counts_in_the_plane(self.encode(x)).to(density.device) > 0, 1.0, 0.4 * density)
            found["codes"] = torch.stack([density, upon])[:, None] * (self.config.levels - 1)
        return found


SMALL = Config(
    shape=(1, 8, 8), levels=17, latents=8, channels=(32, 64), hidden=128, critic=128, likelihood="categorical"
)
MNIST = Config(shape=(1, 28, 28), latents=8, channels=(32, 64), hidden=256, critic=256)
PRESETS = {
    "aae": Config(),
    "aae-mnist": MNIST,
    "aae-small": SMALL,
    "aae-small-mixture": Config(**{**vars(SMALL), "latents": 2, "prior": "mixture"}),
    "aae-small-swiss-roll": Config(**{**vars(SMALL), "latents": 2, "prior": "swiss-roll"}),
}

r"""UNIT-DDPM: unpaired image translation with diffusion models. Sasaki, Willcocks & Breckon 2021 (arXiv:2104.05358).

Two domains A and B, of which no picture of one is known to belong to a picture of the other. Each has a diffusion
model whose network sees, beside a noisy picture of its own domain, a noisy picture of the other; in training that is
what a translator made of the first. The diffusion models learn to denoise. The translators learn that their
translations help to denoise the source, that they can be denoised as pictures of their domain, and that translating
back gives what was there before. A translation walks noise down to data beside the source, which is noised afresh for
every step and released to be denoised too only near the end.

The data set is domain A and its negatives are domain B, so that the error of a translation is known; a picture is only
ever shown in one of the two, so that no pair is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import ops, random
from ...diffusion import coefficients, schedules
from ...ops.diffusion_step import COLUMNS
from .._base import Batch, Loss, Player, as_batch
from ._base import NOISE, START, STEPS, TIME, DenoiserConfig, DiffusionModel, denoiser

DOMAINS = ("A", "B")
OTHER, FORWARD = NOISE + 100, STEPS + 100  # folded into a key: the noise of translations, and of sources at each step
PAIRS = 12  # sources that `pictures` shows


@dataclass(frozen=True)
class Config(DenoiserConfig):
    timesteps: int = 1000  # T
    schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    variance: str = "fixed_small"
    translator: int = 64  # channels of the translators
    translator_blocks: int = 6  # their residual blocks
    cycle: float = 10.0  # lambda_cyc
    release: int = 1  # t_r: the source is denoised too from this step on


class Translator(nn.Module):
    """Pictures of one domain to pictures of the other, both in [-1, 1]."""

    def __init__(self, colours: int, channels: int, blocks: int):
        super().__init__()
        self.first = nn.Conv2d(colours, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
                nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.last = nn.Conv2d(channels, colours, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h)
        return torch.tanh(self.last(h))


class UnitDDPM(DiffusionModel):
    config_class = Config
    validates = False  # a translation may suit its denoiser better and its source less
    alpha: Tensor  # sqrt(alphas_cumprod), [T]
    sigma: Tensor  # sqrt(1 - alphas_cumprod), [T]

    def __init__(self, config: Config):
        super().__init__(config)
        if config.levels is None or len(config.shape) != 3 or config.network != "unet":
            raise ValueError(f"UnitDDPM: data must be pictures of integer pixels; got {config.shape}, {config.levels}.")
        if config.classes is not None:
            raise ValueError(f"UnitDDPM: classes must be None; got {config.classes}.")
        colours, height, width = config.shape
        both = (2 * colours, height, width)
        self.networks = nn.ModuleList(denoiser(config, shape=both, out_channels=colours) for _ in DOMAINS)
        self.translators = nn.ModuleList(  # out of each domain
            Translator(colours, config.translator, config.translator_blocks) for _ in DOMAINS
        )
        self.alphas_cumprod = schedules.alphas_cumprod(  # float64, on the CPU
            config.schedule, config.timesteps, config.beta_start, config.beta_end
        )
        for buffer, table in {"alpha": self.alphas_cumprod.sqrt(), "sigma": (1 - self.alphas_cumprod).sqrt()}.items():
            self.register_buffer(buffer, table.float(), persistent=False)

    # -- domains ------------------------------------------------------------------------------------------------

    def counterpart(self, x: Tensor) -> Tensor:
        """The picture of the other domain that belongs to ``x``, its negative: integer pixels, ``[B, *shape]``.

        Training only measures with it; what the domains are is what `unpaired` gives.
        """
        return self.config.levels - 1 - x

    def unpaired(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures of one domain each, and which, ``[B]``: B (1) where the sum of a picture's pixels is odd."""
        self._check(x)
        domain = x.flatten(1).long().sum(1) % 2
        return torch.where((domain == 1)[:, None, None, None], self.counterpart(x), x), domain

    def of_domain(self, networks: nn.ModuleList, domain: Tensor, *inputs: Tensor) -> Tensor:
        """What each sample's network gives, ``[B, *shape]``."""
        first, second = (domain == 0).nonzero()[:, 0], (domain == 1).nonzero()[:, 0]
        parts = [network(*(x[i] for x in inputs)) for network, i in zip(networks, (first, second), strict=True)]
        return torch.cat(parts)[torch.cat([first, second]).argsort()]

    def denoised(self, domain: Tensor, x_t: Tensor, other: Tensor, t: Tensor) -> Tensor:
        """The noise in ``x_t``, beside a picture of the other domain with as much noise."""
        time = t.to(self.dtype) * (1000 / self.config.timesteps)
        return self.of_domain(self.networks, domain, torch.cat([x_t, other], dim=1), time)

    # -- training -----------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return {
            "diffusion": Player(list(self.networks.parameters())),
            "translators": Player(list(self.translators.parameters())),
        }

    def loss(self, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """That of the translators, which has all terms."""
        return self.loss_of("translators", batch, key=key, sample_offset=sample_offset)

    def loss_of(self, player: str, batch: Batch | Tensor, *, key: Tensor | None = None, sample_offset: int = 0) -> Loss:
        """The squared error of the noise in the source (algorithm 1); for the translators, in the translation too.

        The logged ``error`` is the mean distance of translations from their pictures in [-1, 1]; nothing learns it.
        """
        key = random.key_from(device=as_batch(batch).x.device) if key is None else key
        pixels, domain = self.unpaired(as_batch(batch).x)
        x = self.scale(pixels)
        draws = random.uniform(random.fold_in(key, TIME), (len(x), 1), sample_offset=sample_offset)[:, 0]
        t = (draws * self.config.timesteps).long().clamp(max=self.config.timesteps - 1)
        z = self.of_domain(self.translators, domain, x)
        if player == "diffusion":
            z = z.detach()
        of_x, of_z = random.fold_in(key, NOISE), random.fold_in(key, OTHER)
        x_t, z_t = (
            ops.q_sample(v, self.alpha, self.sigma, timesteps=t, key=noise, sample_offset=sample_offset)
            for v, noise in ((x, of_x), (z, of_z))
        )
        source = ops.diffusion_loss(
            self.denoised(domain, x_t, z_t, t), x, timesteps=t, key=of_x, sample_offset=sample_offset
        ).mean()
        if player == "diffusion":
            return Loss(source, {"mse": source.detach()})
        translation = ops.diffusion_loss(
            self.denoised(1 - domain, z_t, x_t, t), z, timesteps=t, key=of_z, sample_offset=sample_offset
        ).mean()
        cycle = (self.of_domain(self.translators, 1 - domain, z) - x).abs().mean()
        error = (z.detach() - self.scale(self.counterpart(pixels))).abs().mean()
        terms = {"translation": translation.detach(), "cycle": cycle.detach(), "error": error}
        return Loss(source + translation + self.config.cycle * cycle, terms)

    # -- translation and samples --------------------------------------------------------------------------------

    @torch.no_grad()
    def translate(
        self,
        x: Tensor,
        *,
        to: str = "B",
        key: Tensor,
        steps: int | None = None,
        release: int | None = None,
        temperature: float = 1.0,
        sample_offset: int = 0,
    ) -> Tensor:
        """Pictures of the other domain to pictures of the domain ``to``, ``[B, *shape]``, integer pixels (algorithm 2).

        Args:
            x: pictures of the domain that ``to`` is not.
            to: ``"A"`` or ``"B"``.
            key: the noise of picture ``i`` is that of number ``sample_offset + i``.
            steps: of the walk; None: T.
            release: from this step on the source is denoised too, below T; None: the config's. 0: never.
            temperature: what the walk's noise is multiplied by.
        """
        if to not in DOMAINS:
            raise ValueError(f"UnitDDPM.translate: to must be one of {DOMAINS}; got {to!r}.")
        target = DOMAINS.index(to)
        noise = random.fold_in(key, START)
        start = random.normal(noise, x.shape, dtype=self.dtype, sample_offset=sample_offset) * temperature
        walked, _ = self.walk(
            start, self.scale(x), target, key=key, steps=steps, temperature=temperature, sample_offset=sample_offset,
            release=self.config.release if release is None else release,
        )  # fmt: skip
        return self.unscale(walked)

    @torch.no_grad()
    def sample(
        self, n: int, *, key: Tensor, temperature: float = 1.0, steps: int | None = None, sample_offset: int = 0
    ) -> Tensor:
        """``n`` samples of domain A, ``[n, *shape]``; see `sample_pairs`."""
        return self.sample_pairs(n, key=key, temperature=temperature, steps=steps, sample_offset=sample_offset)[0]

    @torch.no_grad()
    def sample_pairs(
        self, n: int, *, key: Tensor, temperature: float = 1.0, steps: int | None = None, sample_offset: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Pictures of A and of B that belong together, from noise: a walk in which both are released at once."""
        shape = (n, *self.config.shape)
        a, b = (
            temperature * random.normal(random.fold_in(key, i), shape, dtype=self.dtype, sample_offset=sample_offset)
            for i in (START, OTHER)
        )
        release = self.config.timesteps
        walked = self.walk(
            a, b, 0, key=key, steps=steps, release=release, temperature=temperature, sample_offset=sample_offset
        )
        return self.unscale(walked[0]), self.unscale(walked[1])

    def walk(
        self,
        x: Tensor,
        source: Tensor,
        domain: int,
        *,
        key: Tensor,
        release: int,
        steps: int | None = None,
        temperature: float = 1.0,
        sample_offset: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Noise ``x`` of a domain down to data, beside a source that is noised until it is released; both at the end.

        A source that is released at once (at T) is noise already.
        """
        last, other = self.config.timesteps, source
        steps = last if steps is None else steps
        if not 1 <= steps <= last:
            raise ValueError(f"UnitDDPM: steps must be in [1, {last}]; got {steps}.")
        if not 0 <= release <= last:
            raise ValueError(f"UnitDDPM: release must be in [0, {last}]; got {release}.")
        times = [round((i + 1) * last / steps) - 1 for i in reversed(range(steps))]
        here = self.alphas_cumprod[times]
        rows = coefficients.ddpm(here, torch.cat([here[1:], here.new_ones(1)]), "epsilon", self.config.variance)
        rows[:, COLUMNS.index("noise")] *= temperature
        rows = rows.to(x.device)
        own = torch.full((len(x),), domain, device=x.device)
        forward, *streams = (random.fold_in(key, stream) for stream in (FORWARD, STEPS, STEPS + 1))
        training, released = self.training, release == last
        self.eval()
        for i, t in enumerate(times):
            now = torch.full((len(x),), t, device=x.device)
            if not released:  # the source as it is at this step
                other = ops.q_sample(
                    source, self.alpha, self.sigma, timesteps=now, key=random.fold_in(forward, i),
                    sample_offset=sample_offset,
                )  # fmt: skip
            released = released or t < release
            outputs = [self.denoised(own, x, other, now)]
            if released:
                outputs.append(self.denoised(1 - own, other, x, now))
            moved = [
                ops.diffusion_step(
                    v, output, rows, clip=1.0, key=stream, step=torch.tensor(i, device=x.device),
                    sample_offset=sample_offset,
                )[0]
                for v, output, stream in zip((x, other), outputs, streams, strict=False)
            ]  # fmt: skip
            x, other = moved if released else (moved[0], other)
        self.train(training)
        return x, other

    @torch.no_grad()
    def translation_error(self, x: Tensor, *, key: Tensor, **options: int | float) -> dict[str, float]:
        """Mean distance of the translations of data from their counterparts, in [-1, 1], into each domain.

        ``options`` are those of `translate`.
        """
        truth = self.counterpart(x)
        errors = {}
        for to, source, target in (("B", x, truth), ("A", truth, x)):
            there = self.translate(source, to=to, key=key, **options)  # type: ignore[arg-type]
            errors[to] = float((self.scale(there) - self.scale(target)).abs().mean())
        return errors

    @torch.no_grad()
    def pictures(self, x: Tensor, *, key: Tensor) -> dict[str, Tensor]:
        """``to_B``, ``to_A``: sources, what they are translated to, and what they should be."""
        x = x[:PAIRS]
        truth = self.counterpart(x)
        found = {}
        for to, source, target in (("B", x, truth), ("A", truth, x)):
            there = self.translate(source, to=to, key=key).to(x)
            found[f"to_{to}"] = torch.stack([source, there, target], dim=1).flatten(0, 1)
        return found


SMALL = Config(
    shape=(1, 8, 8), levels=17, channels=16, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0,
    timesteps=200, schedule="cosine", translator=16, translator_blocks=2,
)  # fmt: skip
PRESETS = {
    "unit-ddpm": Config(),
    "unit-ddpm-mnist": Config(shape=(1, 28, 28), channels=32, multipliers=(1, 2, 2), attention=(7,), translator=32),
    "unit-ddpm-small": SMALL,
}
RECIPES = {"unit-ddpm-small": {"steps": 1500, "lr": 2e-3}}

"""What all schedulers share: a table of rows, the place of a timestep in it, keys, and the memory of trajectories.

Tables are computed in float64 by `set_timesteps` and copied to a device once; `step` reads nothing on the host. A
timestep that is an element of `timesteps`, as in ``for t in scheduler.timesteps``, is known by its place in memory;
another number is looked up on the host, another tensor on its device.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ... import random
from ...ops._checks import check
from ...ops._library import wide_dtype
from .. import schedules
from ..steps import thresholded_step

Generator = torch.Generator | int | Tensor | Sequence[torch.Generator | int]


@dataclass
class SchedulerOutput:
    """The sample at the next timestep, and the data that the model predicted."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Config(dict[str, Any]):
    """Arguments of a scheduler's constructor, as keys or as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Scheduler:
    """Steps of one sampler at chosen timesteps; the arguments and methods are those that users of diffusers know.

    `step` changes nothing in the scheduler but its memory of trajectories, which only samplers that look back use:
    what a step leaves for the next is kept with the very tensor that it returned, and dropped with it. So trajectories
    that take turns do not mix. A sample that was changed in between (inpainting) is taken for that of the last step;
    where several such trajectories take turns, ``previous=`` says which.
    """

    order = 1
    init_noise_sigma: float = 1.0

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.config = Config({k: v for k, v in arguments.items() if k not in ("self", "__class__")})
        self.num_inference_steps: int | None = None
        self.timesteps = torch.zeros(0)
        self._rows: dict[Any, Tensor] = {}
        self._on_device: dict[Any, Tensor] = {}
        self._memory = WeakTensorKeyDictionary()
        self._last: tuple[Any, Tensor] | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any], **changes: Any) -> Scheduler:
        """A scheduler with another's arguments, as far as this class knows them."""
        known = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in (dict(config) | changes).items() if name in known})

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the model reads of a sample."""
        return sample

    # -- timesteps and tables -----------------------------------------------------------------------------------------

    def _install(self, timesteps: Tensor, device: Any) -> None:
        self.timesteps = timesteps.to(device)
        self._places: dict[float, int] = {}
        for i, timestep in enumerate(timesteps.tolist()):
            self._places[timestep] = i
        self._rows, self._on_device, self._last = {}, {}, None
        self._memory = WeakTensorKeyDictionary()

    def _index(self, timestep: Any) -> int | Tensor:
        """Where a timestep is: an int where the host can know without asking the device."""
        name = type(self).__name__
        if not isinstance(timestep, Tensor):
            check(timestep in self._places, f"{name}.step", "timestep", "one of timesteps", timestep)
            return self._places[timestep]
        table = self.timesteps
        if timestep.dim() == 0 and timestep.untyped_storage().data_ptr() == table.untyped_storage().data_ptr():
            return int(timestep.storage_offset() - table.storage_offset())
        if timestep.dim() == 0 and timestep.device.type == "cpu":
            return self._index(timestep.item())
        same = table == timestep.to(table.device).unsqueeze(-1)
        return torch.where(same.any(-1), same.int().argmax(-1), -1)

    def _device_table(self, name: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
        place = name, device, dtype
        if place not in self._on_device:
            self._on_device[place] = self._rows[name].to(device, dtype)
        return self._on_device[place]

    def _at(self, name: Any, index: int | Tensor, like: Tensor) -> Tensor:
        """Entries of a table, shaped to be multiplied with samples."""
        table = self._device_table(name, like.device, wide_dtype(like.dtype))
        if isinstance(index, int):
            return table[index]
        found = table[index.clamp(min=0)].masked_fill(index < 0, float("nan"))
        return found.reshape(*found.shape, *[1] * (like.dim() - found.dim()))

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **options: Any) -> Any:
        """From the sample at a timestep to that at the next."""
        raise NotImplementedError(f"{type(self).__name__} does not define step.")

    # -- the step -----------------------------------------------------------------------------------------------------

    def _run(self, table: Any, index: int | Tensor, sample: Tensor, model_output: Tensor, generator: Any,
             noisy: bool, options: dict[str, Any]) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One step by a table of rows, or by a row."""
        dtype = wide_dtype(sample.dtype)
        row = table.to(sample.device, dtype) if isinstance(table, Tensor) else None
        if row is None:
            rows = self._device_table(table, sample.device, dtype)
            row = rows[index] if isinstance(index, int) else rows
        if not isinstance(index, int):
            options["step"] = index
        variance_noise = options.pop("variance_noise", None)
        if variance_noise is not None:
            options["noise"] = variance_noise
        elif noisy:
            options["key"] = self._folded(generator, index, sample)
        return thresholded_step(sample, model_output, row, **self._bounds() | options)  # type: ignore[return-value]

    def _bounds(self) -> dict[str, Any]:
        """How the predicted data are clipped."""
        config = self.config
        if config.get("thresholding"):
            return {"thresholding": (config.dynamic_thresholding_ratio, config.sample_max_value)}
        return {"clip": config.clip_sample_range if config.get("clip_sample") else None}

    def _folded(self, generator: Generator | None, index: int | Tensor, sample: Tensor) -> Tensor:
        """The key of a step; the op itself folds in an index on the device."""
        key = self._key(generator, sample)
        return random.fold_in(key, index) if isinstance(index, int) else key

    def _key(self, generator: Generator | None, sample: Tensor) -> Tensor:
        """One key, or one for each sample; of a seed or a key the step is folded in, a generator moves on by itself."""
        name = f"{type(self).__name__}.step"
        if isinstance(generator, Sequence):
            check(len(generator) == len(sample), name, "generator", f"a list of {len(sample)}", len(generator))
            return torch.stack([self._key(g, sample) for g in generator])
        if isinstance(generator, Tensor):
            return generator
        if isinstance(generator, int):
            return random.key(generator, device=sample.device)
        if generator is None or generator.device.type == sample.device.type:
            return random.key_from(generator, device=sample.device)
        return random.key_from(generator).to(sample.device, non_blocking=True)

    @staticmethod
    def _output(prev_sample: Tensor, x0: Tensor, return_dict: bool) -> Any:
        return SchedulerOutput(prev_sample, x0) if return_dict else (prev_sample, x0)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _remember(self, prev_sample: Tensor, index: int | Tensor, value: Tensor) -> None:
        self._memory[prev_sample] = self._last = (index, value)

    def _recall(self, sample: Tensor, index: int | Tensor) -> Tensor | None:
        """What the step before left for this sample."""
        entry = self._memory.get(sample)
        if entry is None and self._last is not None and self._last[1].shape == sample.shape:
            entry = self._last
        if entry is None:
            return None
        follows = not isinstance(index, int) or not isinstance(entry[0], int) or entry[0] == index - 1
        return entry[1] if follows else None


class TableScheduler(Scheduler):
    """A scheduler of a process in discrete time, which a table of betas says."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(arguments)
        config = self.config
        if config.get("trained_betas") is not None:
            betas = torch.as_tensor(config.trained_betas, dtype=torch.float64)
            self.alphas_cumprod = torch.cumprod(1 - betas, 0)
        else:
            self.alphas_cumprod = schedules.alphas_cumprod(
                config.beta_schedule, config.num_train_timesteps, config.beta_start, config.beta_end
            )
        if config.get("rescale_betas_zero_snr"):
            self.alphas_cumprod = schedules.zero_terminal_snr(self.alphas_cumprod)
        check(config.prediction_type in ("epsilon", "sample", "v_prediction"), type(self).__name__, "prediction_type",
              "'epsilon', 'sample' or 'v_prediction'", repr(config.prediction_type))  # fmt: skip

    @property
    def betas(self) -> Tensor:
        """Of the forward process, float64."""
        return schedules.betas_of(self.alphas_cumprod)

    def _signal_and_noise(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        self._rows["alpha"], self._rows["sigma"] = self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()
        index = timesteps.to(like.device, torch.int64)
        return self._at("alpha", index, like), self._at("sigma", index, like)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`\alpha_t x_0 + \sigma_t \epsilon`, for a timestep of each sample."""
        alpha, sigma = self._signal_and_noise(original_samples, timesteps)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`v = \alpha_t \epsilon - \sigma_t x_0`, the target of v-prediction."""
        alpha, sigma = self._signal_and_noise(sample, timesteps)
        return (alpha * noise - sigma * sample).to(sample.dtype)

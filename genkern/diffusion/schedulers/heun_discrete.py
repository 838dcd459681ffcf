"""Heun's method on the probability flow: Euler's step, then the trapezoid (Karras et al. 2022, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ops._checks import check
from .. import coefficients
from ._base import Generator
from ._sigmas import SigmaScheduler


class HeunDiscreteScheduler(SigmaScheduler):
    """Two evaluations of the model for each step but the last, so that every timestep but the first comes twice.

    The second stage needs the sample before the first, which is kept with what the first returned (see `Scheduler`);
    ``previous=`` hands it over instead.

    >>> scheduler = HeunDiscreteScheduler()
    >>> scheduler.set_timesteps(5)
    >>> len(scheduler.timesteps)
    9
    """

    order = 2

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
    ) -> None:
        super().__init__(locals())
        self.set_timesteps(num_train_timesteps)
        self.num_inference_steps = None

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Chooses noise levels; all but the first and the final 0 come twice."""
        levels, at = self._levels(self._spaced(num_inference_steps))
        twice = torch.cat([levels[:1], levels[1:].repeat_interleave(2), levels.new_zeros(1)])
        self.num_inference_steps = num_inference_steps
        self._install_levels(twice, torch.cat([at[:1], at[1:].repeat_interleave(2)]), device)
        after = torch.cat([levels[1:], levels.new_zeros(1)])
        rows = levels.new_empty(2 * len(levels) - 1, len(coefficients.COLUMNS))
        rows[::2] = coefficients.euler(levels, after, *self._data(levels))
        rows[1::2] = coefficients.heun(levels[:-1], after[:-1], *self._data(after[:-1]))
        self._rows["step"] = rows

    def _data(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return coefficients.denoised_at(self.config.prediction_type, sigma)

    def _place(self, timestep: Any, sample: Tensor) -> int | Tensor:
        """Of a timestep that comes twice: the second, unless the sample comes from the first stage."""
        index, entry = self._index(timestep), self._memory.get(sample)
        if entry is None or isinstance(index, int) and index % 2 == 1:
            return index
        if isinstance(index, int):
            return index - 1 if isinstance(entry[0], int) and entry[0] == index - 2 else index
        return index

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        generator: Generator | None = None,
        previous: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One stage; ``previous``, the sample before Euler's step, makes it the second.

        The host must know the timestep: an element of `timesteps`, or a number. There is no noise to be drawn from
        ``generator``.
        """
        index = self._place(timestep, sample)
        check(isinstance(index, int), "HeunDiscreteScheduler.step", "timestep", "an element of timesteps, or a number",
              timestep)  # fmt: skip
        assert isinstance(index, int)
        if index % 2 == 1:
            previous = self._recall(sample, index) if previous is None else previous
            check(previous is not None, "HeunDiscreteScheduler.step", "previous", "the sample before the first stage",
                  previous)  # fmt: skip
            options["previous"] = previous
        found = self._run("step", index, sample, model_output, None, False, options)
        if index % 2 == 0:
            self._remember(found[0], index, sample)
        return self._output(*found, return_dict)

"""DPM-Solver++(2M) and its SDE over any levels of signal and noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ops._checks import check
from .. import coefficients
from ._base import Generator, Scheduler

FEW_STEPS = 15  # below which the last step to no noise is of first order


class Multistep(Scheduler):
    """Second-order steps that use the data predicted before, which are kept with the sample returned."""

    def _check_solver(self) -> None:
        config, name = self.config, type(self).__name__
        check(config.solver_order in (1, 2), name, "solver_order", "1 or 2", config.solver_order)
        kinds = ("dpmsolver++", "sde-dpmsolver++")
        check(config.algorithm_type in kinds, name, "algorithm_type", f"one of {kinds}", repr(config.algorithm_type))
        check(config.solver_type in ("midpoint", "heun"), name, "solver_type", "'midpoint' or 'heun'",
              repr(config.solver_type))  # fmt: skip

    def _tabulate_levels(self, alphas: Tensor, sigmas: Tensor, of_x: Tensor, of_output: Tensor) -> None:
        """Rows of all steps, of first order and as they should be; alphas and sigmas end with the last of all."""
        config, steps = self.config, len(alphas) - 1
        kind = {"sde": config.algorithm_type.startswith("sde"), "solver_type": config.solver_type}
        now, after = (alphas[:-1], alphas[1:]), (sigmas[:-1], sigmas[1:])
        first = coefficients.dpm_solver_pp_2m(now, after, of_x, of_output, **kind)
        rows = first.clone()
        last_is_first_order = float(sigmas[-1]) == 0 or config.euler_at_final
        last_is_first_order |= config.lower_order_final and steps < FEW_STEPS
        if config.solver_order == 2 and steps > 1:
            last = alphas[:-2], sigmas[:-2]
            second = coefficients.dpm_solver_pp_2m(
                (alphas[1:-1], alphas[2:]), (sigmas[1:-1], sigmas[2:]), of_x[1:], of_output[1:], last, **kind
            )
            end = steps - 1 if last_is_first_order else steps
            rows[1:end] = second[: end - 1]
        self._rows["first"], self._rows["step"] = first, rows

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        previous: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One step; ``previous`` is the data that the step before predicted, where they are not kept with the sample.

        A trajectory that begins in the middle begins with a step of first order.
        """
        if (self.config.get("variance_type") or "").startswith("learned"):
            model_output = model_output.narrow(1, 0, sample.shape[1])
        index = self._index(timestep)
        previous = self._recall(sample, index) if previous is None else previous
        if previous is not None:
            options["previous"] = previous
        noisy = self.config.algorithm_type.startswith("sde")
        options["variance_noise"] = variance_noise if noisy else None
        table = "first" if previous is None else "step"
        found = self._run(table, index, sample, model_output, generator, noisy, options)
        if self.config.solver_order == 2:
            self._remember(found[0], index, found[1])
        return self._output(*found, return_dict)

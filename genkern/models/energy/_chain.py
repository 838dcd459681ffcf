"""Coefficients of `genkern.ops.diffusion_step` for walks along a variance-preserving chain, in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor


def prediction_of_x0(signal: float, prediction: str) -> tuple[float, float]:
    """What of ``x_t`` and of the network's output the data are, at a signal power (``alphas_cumprod``)."""
    alpha, sigma = math.sqrt(signal), math.sqrt(1 - signal)
    return {"epsilon": (1 / alpha, -sigma / alpha), "v_prediction": (alpha, -sigma), "sample": (0.0, 1.0)}[prediction]


def ddpm_rows(signal: list[float], prediction: str, variance: str) -> Tensor:
    """From each signal power to the next, the last of which is 1, by the posterior (Ho et al. 2020, equation 7)."""
    rows = []
    for here, there in pairwise(signal):
        beta = 1 - here / there
        posterior = (1 - there) / (1 - here) * beta
        noise, log_std, slope = math.sqrt(beta if variance == "fixed_large" else posterior), 0.0, 0.0
        if there == 1:
            noise = 0.0
        elif variance == "learned_range":  # log variance: (1 + v) / 2 log beta + (1 - v) / 2 log posterior
            noise, log_std = 1.0, (math.log(beta) + math.log(posterior)) / 4
            slope = (math.log(beta) - math.log(posterior)) / 4
        of_x, of_x0 = math.sqrt(here / there) * (1 - there) / (1 - here), math.sqrt(there) * beta / (1 - here)
        rows.append([*prediction_of_x0(here, prediction), of_x, of_x0, 0.0, 0.0, noise, log_std, slope])
    return torch.tensor(rows, dtype=torch.float64)


def ddim_rows(signal: list[float], prediction: str, eta: float) -> Tensor:
    """Song et al. 2021 (arXiv:2010.02502), equation 12, the noise derived again from the clipped data."""
    rows = []
    for here, there in pairwise(signal):
        noise = eta * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        of_x = math.sqrt(max(0.0, 1 - there - noise**2) / (1 - here))
        of_x0 = math.sqrt(there) - of_x * math.sqrt(here)
        rows.append([*prediction_of_x0(here, prediction), of_x, of_x0, 0.0, 0.0, noise, 0.0, 0.0])
    return torch.tensor(rows, dtype=torch.float64)


def dpm_solver_rows(signal: list[float], prediction: str) -> Tensor:
    """DPM-Solver++(2M): Lu et al. 2022 (arXiv:2211.01095), algorithm 2; of first order where it begins and ends."""
    rows, last = [], None
    for here, there in pairwise(signal):
        if there == 1:
            rows.append([*prediction_of_x0(here, prediction), 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
            continue
        step = 0.5 * (math.log(there / (1 - there)) - math.log(here / (1 - here)))
        of_x, of_x0 = math.sqrt((1 - there) / (1 - here)), -math.sqrt(there) * math.expm1(-step)
        extra = 0.0 if last is None else step / (2 * last)
        rows.append(
            [*prediction_of_x0(here, prediction), of_x, of_x0 * (1 + extra), 0.0, -of_x0 * extra, 0.0, 0.0, 0.0]
        )
        last = step
    return torch.tensor(rows, dtype=torch.float64)

"""A whole model trained twice: Glow of genkern's layers, and the same network of normflows' layers.

python -m genkern.bench training --steps 1200 --seeds 3

Both start as the same function of the same weights, see the same batches and the same noise, and take the same steps.
They differ in the layers of a flow step: actnorm, 1x1 convolution and affine coupling. The time of a training step is
compared in turn, round by round, like everything here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkern import models, random
from genkern.experiments import TrainConfig, data, train
from genkern.models.flows import glow
from genkern.nn import AffineCoupling, Flow, FlowSequential, InvertibleConv1x1

from .timing import Spread, cpu_timer, interleave, keep_freed_memory, ratio

OURS, PEER = "glow-small", "glow-small-normflows"


class NormflowsStep(Flow):
    """One step of flow of normflows' layers, with the weights of one of genkern's."""

    def __init__(self, conv: InvertibleConv1x1, coupling: AffineCoupling):
        from normflows.flows import ActNorm, AffineCouplingBlock, Invertible1x1Conv

        super().__init__()
        channels = len(conv.lower)
        mixing = Invertible1x1Conv(channels, use_lu=True)
        mixing.P.copy_(torch.eye(channels)[conv.permutation])
        mixing.sign_S.copy_(conv.signs)
        with torch.no_grad():
            mixing.L.copy_(conv.lower)
            mixing.U.copy_(conv.upper)
            mixing.log_S.copy_(conv.log_diagonal)
        self.block = torch.nn.ModuleList(
            [ActNorm((channels, 1, 1)), mixing, AffineCouplingBlock(coupling.network, scale_map="sigmoid")]
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.block:  # normflows calls the density direction `inverse`
            x, log_det = layer.inverse(x)  # type: ignore[operator]
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for layer in reversed(self.block):
            z, log_det = layer(z)
            total = total + log_det
        return z, total


class GlowOfNormflows(glow.Glow):
    """Glow whose steps of flow are normflows'."""

    def __init__(self, config: glow.Config):
        super().__init__(config)
        for container in [module for module in self.modules() if isinstance(module, FlowSequential)]:
            for i, layer in enumerate(container):
                if isinstance(layer, FlowSequential) and isinstance(layer[0], InvertibleConv1x1):
                    container.layers[i] = NormflowsStep(layer[0], layer[1])  # type: ignore[arg-type]


PRESETS = {PEER: glow.PRESETS[OURS]}


def step_times(batch_size: int, budget: float) -> dict[str, list[float]]:
    """Seconds of a training step of each, round by round."""
    x = data.load("digits").train[:batch_size]
    steps: dict[str, Callable[[], Any]] = {}
    for name in (OURS, PEER):
        torch.manual_seed(0)
        model = models.build(name)
        model.initialize(x, key=random.key(0))
        steps[name] = _step(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), x)
        for _ in range(5):
            steps[name]()
    return interleave(steps, cpu_timer, budget=budget)


def _step(model: models.GenerativeModel, optimizer: torch.optim.Optimizer, x: Tensor) -> Callable[[], None]:
    key = random.key(1)

    def step() -> None:
        model.loss(x, key=key).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def held_out(name: str, steps: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return train(TrainConfig(model=name, steps=steps, seed=seed), Path(folder) / "run", device="cpu")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="genkern bench training", description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for the comparison of step times")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    keep_freed_memory()
    models.register(__name__)
    try:
        times = step_times(64, arguments.budget)
    except ImportError as error:
        print(f"bench training needs {error.name}: pip install normflows", file=sys.stderr)
        return 2
    factor = ratio(times[PEER], times[OURS])
    print(f"a training step on {torch.get_num_threads()} threads: {Spread.of(times[OURS]).median * 1e3:.2f} ms;")
    print(f"  normflows' layers take {factor.median:.2f} times as long ({factor.p20:.2f} to {factor.p80:.2f})")
    rows = []
    for seed in range(arguments.seeds):
        found = {name: held_out(name, arguments.steps, seed) for name in (OURS, PEER)}
        rows.append({name: {"test": s["test"], "seconds": s["seconds"]} for name, s in found.items()})
        ours, peer = found[OURS], found[PEER]
        print(
            f"seed {seed}, {arguments.steps} steps: {ours['test']:.4f} bits/dim in {ours['seconds']:.0f} s; "
            f"normflows' layers {peer['test']:.4f} in {peer['seconds']:.0f} s"
        )
    if arguments.json:
        result = {
            "steps": arguments.steps,
            "threads": torch.get_num_threads(),
            "step_ratio": vars(factor),
            "runs": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0

"""The training loop, on Lightning Fabric: one process or many, and the same run after being killed.

A step is a pure function of the weights, the optimiser's state and the number of the step: the batch, the noise and
the learning rate all follow from the seed and that number. So a checkpoint holds no generator states, a run resumed
on a CPU ends with the same bits, and a run of N processes draws the noise of one process with the same whole batch:
process ``r`` takes its part of the batch and tells the model at which sample it starts (``sample_offset``).
The players of an adversarial model take turns within a step, each with its own optimiser; most models have one player.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import models, random
from .._errors import Diverged, Interrupted
from ..models import Batch, GenerativeModel, Player
from . import data, metrics
from .average import Average
from .config import PRECISIONS, TrainConfig
from .order import BatchOrder
from .progress import Report, Silent
from .run import Run
from .summary import summarize

ORDER, NOISE, VALIDATION = range(3)  # folded into the run's key: what a stream is for
LOG_EVERY = 10


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    device: str = "auto",
    resume: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Trains a model, and leaves a run folder: config, metrics, checkpoint, best model, pictures and summary.

    Args:
        config: what to train on what, and how.
        out: the run folder; new, empty, or (with ``resume``) one of the same config.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. Under ``torchrun``, DDP.
        resume: go on where a run stopped, or start where there is none.

    Returns:
        The summary that is also written to ``summary.json``; in a process that is not the first, an empty dict.

    Raises:
        ValueError: for an unknown model, data set or option, with the nearest right name.
        FileExistsError: where the folder holds something else.
        Interrupted, Diverged: see there.
    """
    for package in ("safetensors", "matplotlib"):  # not only when the run ends
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"training needs {package}: pip install 'genkern[train]'")
    for name in ("shape", "levels"):
        if name in config.options:
            raise ValueError(f"--set {name}: it is that of the data, {config.data}.")
    data_set = data.load(config.data)
    torch.manual_seed(config.seed)  # initial weights
    model = models.build(config.model, shape=data_set.shape, levels=data_set.levels, **config.options)
    run = Run(out)
    run.check(config, resume)
    fabric = make_fabric(device, config.precision)
    report = report if report is not None and fabric.is_global_zero else Silent()
    trainer = Trainer(config, data_set, model, fabric, run, report)
    fabric.barrier()  # everyone has looked, and can train, before the first one writes
    if fabric.is_global_zero:
        run.create(config, model.config)
        run.rewind(trainer.step)
    with stops_politely(trainer if fabric.world_size == 1 else None):
        trainer.fit()
    summary: dict[str, Any] = {}
    if fabric.is_global_zero:
        summary = summarize(type(model).load(run.best), data_set, run, trainer.facts(), fabric.device)
    fabric.barrier()
    if fabric.world_size > 1:
        # DDP's reducers go first: one with the last reference destroys the group under the lock that its threads need
        del trainer
        gc.collect()
        torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter
    return summary


class Trainer:
    """Everything that a run changes as it goes."""

    def __init__(
        self, config: TrainConfig, data_set: data.DataSet, model: GenerativeModel, fabric: Any, run: Run, report: Report
    ):
        self.config, self.data, self.model = config, data_set, model
        self.fabric, self.run, self.report = fabric, run, report
        if config.batch_size % fabric.world_size:
            raise ValueError(
                f"--batch-size must be a multiple of the {fabric.world_size} processes, got {config.batch_size}."
            )
        self.order = BatchOrder(len(data_set.train), config.batch_size, random.fold_in(random.key(config.seed), ORDER))
        root = random.key(config.seed, device=fabric.device)
        self.noise, self.validation = random.fold_in(root, NOISE), random.fold_in(root, VALIDATION)
        self.step, self.best, self.best_step, self.stale, self.seconds = 0, math.inf, 0, 0, 0.0
        self.stopped, self.interrupted = False, False

        # the data sets are small: they live on the device
        self.samples = data_set.train.to(fabric.device)
        self.labels = data_set.labels["train"].to(fabric.device) if data_set.labels else None

        state = run.load_state()
        model.to(fabric.device)
        if state is None:
            # every process sees the whole first batch, so all of them initialise alike
            model.train()
            model.initialize(self._batch(self.order.batch(0)), key=random.fold_in(self.noise, -1))
        self.sides = [self._side(name, player) for name, player in model.players().items()]
        self.average = Average(model, config.ema) if config.ema else None
        if state is not None:
            self._restore(state)

    # -- the loop -----------------------------------------------------------------------------------------------

    def fit(self) -> None:
        title = f"{self.config.model} on {self.config.data}"
        self.report.start(title, self.config.steps, self.step)
        self.model.train()
        since, before = time.monotonic(), self.seconds
        try:
            while self.step < self.config.steps and not self.stopped:
                self._update()
                self.seconds = before + time.monotonic() - since
                last = self.step == self.config.steps
                if last or self.step % self.config.evaluate_every == 0:
                    self._evaluate()
                if last or self.stopped or self.interrupted or self.step % self.config.checkpoint_every == 0:
                    self._save()
                if self.interrupted and not (last or self.stopped):
                    raise Interrupted(
                        f"stopped at step {self.step} of {self.config.steps}; --resume goes on from there."
                    )
        finally:
            self.report.stop()

    def _update(self) -> None:
        config, fabric = self.config, self.fabric
        share = config.batch_size // fabric.world_size
        first = fabric.global_rank * share
        batch = self._batch(self.order.batch(self.step)[first : first + share])
        # whatever draws from the global generator (dropout) follows from the step too
        seed = (config.seed * 0x9E3779B97F4A7C15 + self.step * fabric.world_size + fabric.global_rank) % 2**63
        torch.default_generator.manual_seed(seed)
        if fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        rate, key = config.learning_rate(self.step), random.fold_in(self.noise, self.step)
        values: dict[str, Tensor] = {}
        for number, side in enumerate(self.sides):
            if (self.step + 1) % side.player.every == 0:
                turn = key if len(self.sides) == 1 else random.fold_in(key, number)
                values |= self._turn(side, rate, (*batch, turn, first))
        if self.average:
            self.average.update(self.step)
        self.step += 1
        if self.step % LOG_EVERY == 0 or self.step in (1, config.steps):
            losses = [values[self._named("loss", side)] for side in self.sides if self._named("loss", side) in values]
            self._log({**values, "loss": torch.stack(losses).sum()}, rate)

    def _side(self, name: str, player: Player) -> Side:
        """A player's loss as a module, in which (for DDP) no parameters but its own have gradients; its optimiser."""
        take_turn(self.model, player)
        module, optimizer = self.fabric.setup(_Loss(self.model, name), _optimizer(player, self.config))
        return Side(name, player, module, optimizer)

    def _turn(self, side: Side, rate: float, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
        """One update of one player; what there is to log of it."""
        config, fabric = self.config, self.fabric
        if len(self.sides) > 1:
            take_turn(self.model, side.player)
        for group in side.optimizer.param_groups:
            group["lr"] = rate * side.player.rate
        total, terms = side.module(*inputs)
        fabric.backward(total)
        values = {self._named("loss", side): total.detach(), **terms}
        accepted = True
        if config.clip or self.model.skips_steps:
            bound = config.clip or math.inf
            norm = fabric.clip_gradients(side.module, side.optimizer, max_norm=bound, error_if_nonfinite=False)
            values[self._named("gradient_norm", side)] = norm
            accepted = self.model.accepts(norm)
        if accepted:
            side.optimizer.step()
        side.optimizer.zero_grad(set_to_none=True)
        return values

    def _named(self, value: str, side: Side) -> str:
        return value if len(self.sides) == 1 else f"{value}_{side.name}"

    def _log(self, values: dict[str, Tensor], rate: float) -> None:
        """Means over processes; the only place, besides an evaluation, where the host waits for the device."""
        numbers = {name: float(self.fabric.all_reduce(value.detach().float())) for name, value in values.items()}
        if not math.isfinite(numbers["loss"]):
            raise Diverged(
                f"the loss at step {self.step} is {numbers['loss']}; try a smaller --lr, a longer --warmup or --clip."
            )
        if self.fabric.is_global_zero:
            self.run.log(self.step, **numbers, lr=rate, seconds=round(self.seconds, 3))
        self.report.step(self.step, {"loss": numbers["loss"]})

    def _evaluate(self) -> None:
        """The validation value of the averaged weights; keeps the best, and stops early when none comes any more."""
        model = self.average.model if self.average else self.model
        if self.average:
            model.train().eval()  # layers that prepare for evaluation (spectral norms) do so where it begins
        rank, world_size = self.fabric.global_rank, self.fabric.world_size
        part = metrics.nll_sum(model, self.data.validation, key=self.validation, rank=rank, world_size=world_size)
        total = float(self.fabric.all_reduce(part, reduce_op="sum"))
        value = metrics.per_unit(total / len(self.data.validation), model)
        if value < self.best or not self.best_step or math.isnan(self.best) or not model.validates:
            self.best, self.best_step, self.stale = value, self.step, 0
            if self.fabric.is_global_zero:
                model.save(self.run.best)
        else:
            self.stale += 1
            self.stopped = bool(self.config.patience) and self.stale >= self.config.patience
        if self.fabric.is_global_zero:
            self.run.log(self.step, validation=value)
        unit = metrics.unit(model)
        self.report.evaluated(self.step, f"validation {value:.4f} {unit} (best {self.best:.4f})")

    def _batch(self, indices: Tensor) -> Batch:
        indices = indices.to(self.fabric.device)
        return Batch(self.samples[indices], None if self.labels is None else self.labels[indices])

    # -- state --------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self.fabric.is_global_zero:
            return
        self.run.save_state(
            {
                "model": self.model.state_dict(),
                "average": self.average.model.state_dict() if self.average else None,
                "optimizers": {side.name: side.optimizer.state_dict() for side in self.sides},
                "precision": self.fabric.strategy.precision.state_dict(),
                "progress": {name: getattr(self, name) for name in PROGRESS},
            }
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        for side in self.sides:
            side.optimizer.load_state_dict(state["optimizers"][side.name])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        for name in PROGRESS:
            setattr(self, name, state["progress"][name])

    def facts(self) -> dict[str, Any]:
        """What the summary says of the training."""
        return {"steps": self.step, "best_step": self.best_step, "seconds": round(self.seconds, 1)}


PROGRESS = ("step", "best", "best_step", "stale", "seconds", "stopped")


class Side(NamedTuple):
    """A player with what it needs in its turn."""

    name: str
    player: Player
    module: Any  # of Fabric
    optimizer: Any


def take_turn(model: nn.Module, player: Player) -> None:
    """Only this player's parameters have gradients."""
    model.requires_grad_(False)
    for parameter in player.parameters:
        parameter.requires_grad_(True)


class _Loss(nn.Module):
    """`GenerativeModel.loss_of` a player as the ``forward`` that DDP needs to see, and as plain tensors."""

    def __init__(self, model: GenerativeModel, player: str):
        super().__init__()
        self.model, self.player = model, player

    def forward(self, x: Tensor, y: Tensor | None, key: Tensor, sample_offset: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.model.loss_of(self.player, Batch(x, y), key=key, sample_offset=sample_offset)
        return loss.total, dict(loss.terms)


def _optimizer(player: Player, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam, in one pass over the weights; clipping what the scaler of float16 scaled needs the plain one."""
    fused = config.precision != "16" and player.parameters[0].device.type in ("cpu", "cuda")
    betas = player.betas or config.betas or (0.9, 0.999)
    settings: dict[str, Any] = {"lr": config.lr, "betas": betas, "fused": fused}
    if config.weight_decay:
        return torch.optim.AdamW(player.parameters, weight_decay=config.weight_decay, **settings)
    return torch.optim.Adam(player.parameters, **settings)


def make_fabric(device: str, precision: str) -> Any:
    """Fabric on a device, or on this process's share of the devices under ``torchrun``."""
    try:
        from lightning_fabric import Fabric
    except ImportError:
        try:
            from lightning.fabric import Fabric  # type: ignore[no-redef]
        except ImportError:
            raise ImportError("training needs Lightning Fabric: pip install 'genkern[train]'") from None
    for name in ("lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ValueError(f"--device must be auto, cpu, cuda, cuda:N or mps, got {device!r}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here.")
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    settings: dict[str, Any] = {"accelerator": kind, "precision": PRECISIONS[precision]}
    if "TORCHELASTIC_RUN_ID" in os.environ and world > 1:
        fabric = Fabric(devices=local, num_nodes=world // local, strategy="ddp", **settings)
    else:
        fabric = Fabric(devices=[int(index)] if index and kind == "cuda" else 1, **settings)
    fabric.launch()
    return fabric


@contextmanager
def stops_politely(trainer: Trainer | None) -> Iterator[None]:
    """Ctrl-C and SIGTERM let the step end and a checkpoint be written (several processes would each stop elsewhere)."""
    if trainer is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        trainer.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

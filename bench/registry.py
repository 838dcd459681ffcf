"""What is measured: one file for each op, layer or model under `workloads/`, found by itself.

It has `WORKLOADS`, a `SWEEP` of sizes and, where another is known to be faster, `REASONS` by the other's name.

A workload is a call of a public function on inputs of a real model's shapes. Everyone who can compute it is a
*provider*: `genkern`, `eager` (the reference), `compile` (`torch.compile` of the reference), and the rivals that the
workload names, which may need libraries that are not installed.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

FORWARD, TRAIN = "forward", "forward+backward"
MODES = (FORWARD, TRAIN)

Inputs = tuple[Any, ...]  # tensors and modules, handed to every provider alike
Function = Callable[..., Any]  # inputs -> tensor or tuple of tensors


@dataclass(frozen=True)
class Rival:
    """Another way to do the same.

    Args:
        build: returns the function of the workload's inputs; an ImportError means that the library is not installed.
        same_values: whether it must agree with the reference; random draws do not.
        modes: in which it takes part.
        same_gradients: whether its gradients must agree too; those of another parametrisation do not.
    """

    build: Callable[[], Function]
    same_values: bool = True
    modes: Sequence[str] = MODES
    same_gradients: bool = True


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark.

    Args:
        name: what is special about it: a shape, a variant.
        make: ``(device, dtype) -> inputs``; drawn from torch's default generator, which the runner seeds.
        run: ``(impl) -> function of the inputs``, with ``impl`` as in every op: ``"auto"`` or ``"torch"``.
        modes: `FORWARD`, `TRAIN`, or both.
        backward_reads: positions of the inputs that a backward pass cannot do without.
        flops: of the forward pass, where arithmetic and not memory is the limit.
        rivals: others beside eager and compiled PyTorch, by name.
        quick: the providers besides genkern that `--quick` times; empty leaves the workload out.
        launch: a tiny shape, where the time is that of the call and not of the work.
        compiles: the modes in which compiled PyTorch takes part; not where tracing takes minutes.
        compiled: makes what takes part as `compile`, where that is not `torch.compile` of ``run("torch")``.
        sweep: whether this is one of an op's growing sizes, beside eager PyTorch alone; filled in at discovery.
        reasons: why a provider is faster, by its name: the file's `REASONS`, filled in at discovery. What a user
            reads beside a loss.
    """

    name: str
    make: Callable[[torch.device, torch.dtype], Inputs]
    run: Callable[[str], Function]
    modes: Sequence[str] = MODES
    backward_reads: Sequence[int] | None = None
    flops: int = 0
    rivals: Mapping[str, Rival] = field(default_factory=dict)
    quick: Sequence[str] = ()
    launch: bool = False
    compiles: Sequence[str] = MODES
    compiled: Callable[[], Function] | None = None
    sweep: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)
    op: str = ""  # the file's name, filled in at discovery


def shape_name(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def seeded(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Normal values, the same on every device."""
    return torch.randn(tuple(shape)).to(device, dtype)


@functools.cache
def workloads() -> tuple[Workload, ...]:
    """All workloads, in the order of their files' names."""
    from . import workloads as package

    found: list[Workload] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        about: dict[str, Any] = {"op": info.name, "reasons": getattr(module, "REASONS", {})}
        found += [replace(workload, **about) for workload in module.WORKLOADS]
        found += [replace(workload, **about, launch=False, sweep=True, rivals={}, quick=("eager",))
                  for workload in module.SWEEP]  # fmt: skip
    names = [(workload.op, workload.name, workload.sweep) for workload in found]
    if len(set(names)) < len(names):
        raise ValueError(f"bench: two workloads share a name: {sorted(n for n in names if names.count(n) > 1)}.")
    return tuple(found)


def select(ops: Sequence[str] | None = None, *, quick: bool = False, sweep: bool = False) -> list[Workload]:
    """The workloads of some ops (all if None), or the quick ones among them, or the same call at growing sizes."""
    known = list(dict.fromkeys(workload.op for workload in workloads()))
    for op in ops or ():
        if op not in known:
            near = get_close_matches(op, known, 1, 0.0)
            raise ValueError(f"bench: op must be one of {', '.join(known)}; got {op!r} (did you mean {near[0]!r}?).")
    chosen = [w for w in workloads() if w.sweep == sweep and (not ops or w.op in ops)]
    return [workload for workload in chosen if workload.quick] if quick else chosen


def reason(op: str, provider: str) -> str | None:
    """Why a provider beats genkern in the workloads of an op, as its file says; None if it does not."""
    return next((w.reasons[provider] for w in workloads() if w.op == op and provider in w.reasons), None)


def is_op(name: str) -> bool:
    """Whether workloads are those of one operation; the others are of layers and whole models."""
    return importlib.util.find_spec(f"genkern.ops.{name}") is not None or name == "random"


# -- inputs ---------------------------------------------------------------------------------------------------------


def leaves(inputs: Inputs) -> list[Tensor]:
    """The tensors that have a gradient: floating inputs, and the parameters of modules."""
    found: list[Tensor] = []
    for value in inputs:
        if isinstance(value, nn.Module):
            found += list(value.parameters())
        elif isinstance(value, Tensor) and value.is_floating_point():
            found.append(value)
    return found


def widened(inputs: Inputs) -> Inputs:
    """The same values in float64."""

    def widen(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return copy.deepcopy(value).double()
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tuple(widen(value) for value in inputs)


def tensors_of(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [value for value in outputs if isinstance(value, Tensor)]

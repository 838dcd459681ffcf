"""Clocks, and the one way to compare on a machine that is not quiet: everyone in turn, in rounds, ratio by ratio."""

from __future__ import annotations

import ctypes
import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]


class Timer(Protocol):
    def __call__(self, function: Call, calls: int) -> float:
        """Seconds a call, over a block of calls."""


@dataclass(frozen=True)
class Spread:
    """A median between the 20th and the 80th percentile."""

    median: float
    p20: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)])

    @property
    def relative(self) -> float:
        return (self.p80 - self.p20) / self.median if self.median else 0.0


def cpu_timer(function: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


class CudaTimer:
    """CUDA events around each call, with the L2 cache flushed before it; the median of a block."""

    def __init__(self, device: torch.device):
        self.device = device
        flush = 4 * getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
        self.flush = torch.empty(flush, dtype=torch.int8, device=device)

    def __call__(self, function: Call, calls: int) -> float:
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(calls)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(calls)]
        for start, end in zip(starts, ends, strict=True):
            self.flush.zero_()
            start.record()
            function()
            end.record()
        torch.cuda.synchronize(self.device)
        pairs = zip(starts, ends, strict=True)
        return statistics.median(start.elapsed_time(end) for start, end in pairs) * 1e-3


def cuda_graph(function: Call) -> Call:
    """The same work as one graph launch: what is left when the host costs nothing."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture needs warm caches and workspaces
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def timer_for(device: torch.device) -> Timer:
    return CudaTimer(device) if device.type == "cuda" else cpu_timer


def interleave(
    functions: Mapping[str, Call],
    timer: Timer,
    *,
    budget: float,
    block: float = 2e-5,
    rounds: tuple[int, int] = (7, 200),
    seed: int = 0,
) -> dict[str, list[float]]:
    """Times the functions in rounds, each once a round and in a new order; seconds a call, round by round.

    A turn is a single call unless that is too short for the clock, so that everyone, the copy too, finds the caches as
    someone else left them: repeated calls on the same small tensors would time a cache that no model has.

    Args:
        functions: by name; warm already.
        timer: the clock.
        budget: seconds for all rounds together.
        block: seconds that one function's turn should last at least.
        rounds: the fewest and the most, whatever the budget says.
    """
    calls, cost = {}, 0.0
    for name, function in functions.items():
        once = max(min(timer(function, 1) for _ in range(3)), 1e-9)
        calls[name] = max(1, min(math.ceil(block / once), 1000))
        cost += calls[name] * once
    count = max(rounds[0], min(int(budget / cost), rounds[1]))
    times: dict[str, list[float]] = {name: [] for name in functions}
    order, shuffler = list(functions), random.Random(seed)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(count):
            shuffler.shuffle(order)
            for name in order:
                times[name].append(timer(functions[name], calls[name]))
    finally:
        if collecting:
            gc.enable()
    return times


def ratio(others: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times longer the others take, round by round."""
    return Spread.of([other / our for other, our in zip(others, ours, strict=True)])


# -- the allocator --------------------------------------------------------------------------------------------------

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep large blocks that are freed, instead of returning their pages to the kernel.

    By default a large tensor's pages are unmapped when it dies and faulted in again, zeroed, when the next one is
    born, which costs more than the op that fills it. `MALLOC_MMAP_THRESHOLD_=1073741824
    MALLOC_TRIM_THRESHOLD_=1073741824` in the environment does the same to any program.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    mmap = mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 32 << 20)  # older glibc allows 32 MiB
    return bool(mmap) and bool(mallopt(M_TRIM_THRESHOLD, 1 << 30))

"""The most memory that a call holds at one time, above its inputs."""

from __future__ import annotations

import os

import torch
from torch.profiler import ProfilerActivity, profile

from .timing import Call

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its profiler announces every start and end


def peak_bytes(call: Call, device: torch.device) -> int:
    """Bytes, from the allocator's own books (CUDA) or from its list of what came and went (CPU)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        values = call()
    del values
    events = [event for event in _events(profiler) if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _events(profiler: profile) -> list:
    found = profiler.profiler.kineto_results if profiler.profiler is not None else None
    return [] if found is None else found.events()

"""What runs here and why: the content of `genkern info`."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from ._library import OPS
from ._native import native_library

DEVICES = ("cpu", "cuda")


class Info(dict[str, Any]):
    """Plain data, ready for JSON; `str` lays it out for people."""

    def __str__(self) -> str:
        versions = " · ".join(f"{name} {version}" for name, version in self["versions"].items())
        return "\n".join([versions, "", *self._libraries(), "", *self._backends()])

    def _libraries(self) -> list[str]:
        cpu, cuda = self["libraries"]["cpu"], self["libraries"]["cuda"]
        lines = [f"C++ kernels   {cpu['why_not'] or 'loaded'}"]
        if "compiler" in cpu:
            lines[0] += f"; built by {cpu['compiler']} against torch {cpu['torch_built_against']}"
            lines.append(f"              for {', '.join(cpu['simd_levels'])}; this machine runs {cpu['simd_used']}")
        built_for = f"; built for {', '.join('sm_' + arch for arch in cuda['archs'])}" if cuda["archs"] else ""
        return [*lines, f"CUDA kernels  {cuda['why_not'] or 'loaded'}{built_for}"]

    def _backends(self) -> list[str]:
        ops = self["ops"]
        width = max(map(len, ops), default=0)
        lines = [f"{'op':{width}}  " + "  ".join(f"{device:8}" for device in DEVICES)]
        for name, backends in ops.items():
            lines.append(f"{name:{width}}  " + "  ".join(f"{backends[device]['backend']:8}" for device in DEVICES))
        reasons: dict[tuple[str, str, str], list[str]] = {}
        for name, backends in ops.items():
            for device in DEVICES:
                reasons.setdefault((device, *backends[device].values()), []).append(name)
        lines.append("")
        for (device, backend, why), names in sorted(reasons.items()):
            which = "" if len(names) > len(ops) / 2 else f" ({', '.join(names)})"
            lines.append(f"{backend} on {device}: {why}{which}")
        return [line.rstrip() for line in lines]


def info() -> Info:
    """Versions, what was built, and for every op the backend that runs on each kind of device and why.

    >>> info()["ops"]["affine_coupling"]["cpu"]["backend"] in ("c++", "torch")
    True
    """
    native = native_library()
    facts = dict(native.facts)
    archs = [arch for arch in facts.pop("cuda_archs", "").split(";") if arch]
    return Info(
        versions={name: _version(name) for name in ("genkern", "torch", "triton", "numpy")}
        | {"python": platform.python_version()},
        libraries={
            "cpu": {"why_not": native.why_not, **facts},
            "cuda": {"why_not": native.why_not_cuda, "archs": archs},
        },
        devices={"cpu_threads": torch.get_num_threads(), "cuda": _cuda_devices()},
        ops={
            name: {device: dict(zip(("backend", "why"), op.backend(device), strict=True)) for device in DEVICES}
            for name, op in sorted(OPS.items())
        },
    )


def _version(package: str) -> str:
    if package == "genkern":
        from .. import __version__

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cuda_devices() -> list[str]:
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]

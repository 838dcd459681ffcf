"""Benchmarks: workloads from real models, timed against eager PyTorch, `torch.compile` and whoever else can be asked.

python -m genkern.bench --quick
python -m genkern.bench --ops affine_coupling --json results.json --markdown results.md --plot results.png
python -m genkern.bench compare before.json after.json
python -m genkern.bench readme results.json README.md
"""

from .cli import main

__all__ = ["main"]

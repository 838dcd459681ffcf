"""Benchmarks: workloads from real models, timed against eager PyTorch, `torch.compile` and whoever else can be asked.

python -m genkern.bench --quick
python -m genkern.bench --ops affine_coupling --json results.json --markdown results.md --plot results.png
python -m genkern.bench compare before.json after.json
python -m genkern.bench readme results.json README.md
python -m genkern.bench instructions --against bench/results/amd-epyc-instructions.json
python -m genkern.bench training

(from anywhere as `genkern bench`). How it measures:

- Values first: outputs and gradients of every provider are compared with the reference in float64; who is wrong is
  named and not timed.
- In turn: all providers and a plain copy run in rounds of random order, one call each. Ratios are taken round by round;
  shown are their median and, in reports, their 20th and 80th percentile. What disturbs the machine disturbs all.
- With a denominator: "copies" is the time over that of `copy_` of x; "roofline" the share of the rate at which the same
  run copies as many bytes as the op must move, or multiplies matrices where that binds.
- With a warm allocator: glibc's malloc is told to keep freed memory (`timing.keep_freed_memory`); `--allocator both`
  adds the rows without, `--threads all 1` those of one thread, each condition with ceilings of its own.
- First calls and the time that torch.compile takes of them apart; bytes saved for the backward pass, and the peak.
- Instructions of the CPU loops under valgrind (`instructions`), which no neighbour disturbs.
"""

from .cli import main

__all__ = ["main"]

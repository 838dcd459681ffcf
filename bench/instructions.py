"""How many instructions the CPU loops execute, counted by valgrind: the same on every run, however busy the machine.

python -m genkern.bench instructions --ops affine_coupling
python -m genkern.bench instructions --json new.json --against bench/results/amd-epyc-instructions.json

One process runs a workload of each op, that of `--quick`, under callgrind, on one thread, each mode once after a
warm-up; counted is what the native library itself executes meanwhile, not Python, torch or its matrix products. A call
of `getloadavg` on either side makes callgrind write what it has counted so far, so nothing of the start or of a
neighbour is in a row's figure. All ops together take about ten minutes. Valgrind knows no AVX-512: the loops are those
for x86-64-v3, whatever the processor.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

KIND = "instructions"
MARK = "getloadavg"  # a C function that nothing else calls, and that Python calls without libffi
LIBRARY = re.compile(r"genkern/_C\.[^/]*so$")
TOLERANCE = 0.02


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="genkern bench instructions", description=__doc__.split("\n\n")[0])
    parser.add_argument("--ops", nargs="+", metavar="OP", help="only these")
    parser.add_argument("--json", type=Path, metavar="F", help="write the counts")
    parser.add_argument("--against", type=Path, metavar="F", help="compare with these, and end with 1 if any grew")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="growth that is allowed (%(default)s)")
    arguments = parser.parse_args(words)
    counts = count(arguments.ops)
    print(f"{counts['level']} loops of {counts['compiler']}, one thread; instructions for each element of x")
    for name, found in counts["rows"].items():
        print(f"{found['per_element']:10.2f}  {name}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(counts, indent=1) + "\n")
    if arguments.against:
        text, failed = compare(json.loads(arguments.against.read_text()), counts, arguments.tolerance)
        print(text)
        return int(failed)
    return 0


def count(ops: Sequence[str] | None = None) -> dict[str, Any]:
    """Instructions of each row, with the compiler and the instruction set that they belong to."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise ValueError("bench instructions: needs valgrind, which is not installed (apt-get install valgrind).")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        command = [
            valgrind, "--tool=callgrind", f"--dump-before={MARK}", f"--callgrind-out-file={out}",
            sys.executable, "-c", f"from genkern.bench import instructions; instructions.child({ops!r})",
        ]  # fmt: skip
        root = str(Path(__file__).resolve().parents[1 if (Path(__file__).parent / "results").exists() else 2])
        once = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            command, env={**os.environ, **once, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            raise ValueError(f"bench instructions: valgrind's process failed:\n{done.stderr[-2000:]}")
        facts = json.loads(lines[-1])
        # part 1 is the start; then, in turn, a row and what lies before the next one
        for i, row in enumerate(facts["rows"].values()):
            with open(f"{out}.{2 * i + 2}", encoding="utf-8") as profile:
                row["instructions"] = of_library(profile)
            row["per_element"] = float(f"{row['instructions'] / row['elements']:.5g}")
    return facts


def child(ops: Sequence[str] | None) -> None:
    """What runs under valgrind: every row once, between two marks."""
    import torch

    from . import gate
    from .registry import TRAIN, is_op, leaves, select, tensors_of
    from .runner import unit_of

    torch.set_num_threads(1)
    rows = {}
    counted = {workload.op: workload for workload in reversed(select(ops, quick=True)) if is_op(workload.op)}
    for workload in reversed(counted.values()):
        for mode in workload.modes:
            torch.manual_seed(0)
            inputs = workload.make(torch.device("cpu"), torch.float32)
            function = workload.run("auto")
            with torch.no_grad():
                outputs = tensors_of(function(*inputs))
            call = gate.forward_pass(function, inputs)
            if mode == TRAIN:
                for leaf in leaves(inputs):
                    leaf.requires_grad_()
                call = gate.training_step(
                    function, inputs, [torch.ones_like(o) for o in outputs if o.is_floating_point()]
                )
            call()
            os.getloadavg()
            call()
            os.getloadavg()
            rows[f"{workload.op} {workload.name}, {mode}"] = {"elements": unit_of(inputs, outputs).numel()}
    build = importlib.import_module("genkern._C").build_facts()
    facts = {
        "kind": KIND,
        "compiler": build["compiler"],
        "level": build["simd_used"],
        "torch": torch.__version__,
        "rows": rows,
    }
    print(json.dumps(facts), flush=True)
    os._exit(0)  # the rest would only be counted


def of_library(profile: Iterable[str]) -> int:
    """The instructions that functions of the native library themselves executed, from a profile of callgrind's."""
    names: dict[str, str] = {}
    inside, total, skip = False, 0, False
    for line in profile:
        if line.startswith("ob="):
            number, _, name = line[3:].strip().partition(" ")
            name = names.setdefault(number, name) if name else names[number]
            inside = LIBRARY.search(name) is not None
        elif line.startswith("cob="):
            number, _, name = line[4:].strip().partition(" ")
            if name:
                names.setdefault(number, name)
        elif line.startswith("calls="):
            skip = True  # the line after it is what the callee took
        elif line[:1].isdigit() or line[:1] in "+-*":
            if inside and not skip:
                total += int(line.split()[1])
            skip = False
    return total


def compare(before: dict[str, Any], after: dict[str, Any], tolerance: float = TOLERANCE) -> tuple[str, bool]:
    """The rows whose counts differ, the worst first, and whether any grew by more than is allowed."""
    lines, failed = [], False
    for fact in ("compiler", "level"):
        if before[fact] != after[fact]:
            lines.append(f"different {fact}: {before[fact]}; {after[fact]}")
    old, new = before["rows"], after["rows"]
    both = [name for name in new if name in old and old[name]["instructions"]]
    ratios = {name: new[name]["instructions"] / old[name]["instructions"] for name in both}
    for name, ratio in sorted(ratios.items(), key=lambda item: -item[1]):
        grew = ratio > 1 + tolerance
        failed |= grew
        if abs(ratio - 1) > 1e-3:
            lines.append(f"{ratio:7.3f}×  {name}{'  more' if grew else ''}")
    lines += [f"   gone   {name}" for name in old if name not in new]
    lines.append(f"{sum(r > 1 + tolerance for r in ratios.values())} of {len(both)} rows grew beyond {tolerance:.0%}")
    return "\n".join(lines), failed

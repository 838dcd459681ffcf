"""`genkern bench` and `python -m genkern.bench`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import compare, readme, timing

if TYPE_CHECKING:
    from .results import Results


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["compare"]:
            return _compare(words[1:])
        if words[:1] == ["readme"]:
            return _readme(words[1:])
        if words[:1] == ["training"]:
            from . import training

            return training.main(words[1:])
        if words[:1] == ["instructions"]:
            from . import instructions

            return instructions.main(words[1:])
        return _run(words)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genkern bench",
        description="Times genkern against eager PyTorch, torch.compile and rivals, in turn, after checking the values."
        " `bench compare A.json B.json` compares two runs; `bench readme RESULTS.json README.md` writes the table;"
        " `bench instructions` counts those of the CPU loops under valgrind; `bench training` trains a Glow of these"
        " layers and one of normflows'.",
    )
    parser.add_argument("--quick", action="store_true", help="one workload an op, few rounds, few compilations")
    parser.add_argument(
        "--first", action="store_true", help="the first workload of each op, that of the README's table"
    )
    parser.add_argument("--sweep", action="store_true", help="growing sizes of each op beside its roofline, and a plot")
    parser.add_argument("--ops", nargs="+", metavar="OP", help="only these; --list names them")
    parser.add_argument("--match", metavar="TEXT", help="only workloads whose name contains this")
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    parser.add_argument("--device", default=None, help="cpu or cuda; the default is cuda where there is one")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument(
        "--threads", nargs="+", type=_threads, metavar="N",
        help="CPU threads of torch, a number or `all`; with several, such as `all 1`, everything is run with each",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, metavar="S", help="seconds of timing for each workload and mode")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile and what rivals compile out")
    parser.add_argument(
        "--allocator",
        default="warm",
        choices=("warm", "default", "both"),
        help="warm (default): malloc keeps freed memory, as a training run with MALLOC_MMAP_THRESHOLD_ set would;"
        " default: malloc as it comes, which pays page faults for every large tensor; both: one after the other",
    )
    parser.add_argument(
        "--peers", nargs="?", const=Path("build/peers"), type=Path, metavar="DIR",
        help="measure other libraries too, those in DIR (default: build/peers, where `make peers` puts them)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="F", help="write the results")
    parser.add_argument("--results", type=Path, metavar="DIR", help="write DIR/<machine>-<date>.json, .md and plots")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write a report")
    parser.add_argument(
        "--plot", type=Path, metavar="F", help="write PNGs, F and F's name with -roofline (needs matplotlib)"
    )
    return parser


def _threads(word: str) -> int | None:
    return None if word == "all" else int(word)


def _run(words: list[str]) -> int:
    arguments = _parser().parse_args(words)
    allocator = "warm" if arguments.allocator == "both" else arguments.allocator
    if allocator == "warm" and not timing.keep_freed_memory():  # before torch allocates anything large
        allocator = "default"

    if arguments.peers:
        if not arguments.peers.is_dir():
            raise ValueError(f"bench: --peers: there is no folder {arguments.peers}; `make peers` fills build/peers.")
        sys.path.append(str(arguments.peers.resolve()))  # last, so that nothing of genkern's own is replaced

    import torch

    from .registry import select
    from .report import Table, head, legend, markdown
    from .results import Results, load, provenance
    from .runner import Options, measure_machine, run

    if arguments.sweep and arguments.quick:
        raise ValueError("bench: --sweep and --quick are two different things.")
    chosen = select(arguments.ops, quick=arguments.quick, sweep=arguments.sweep)
    if arguments.first:
        chosen = list({workload.op: workload for workload in reversed(chosen)}.values())[::-1]
    workloads = [w for w in chosen if (arguments.match or "") in w.name]
    if arguments.list:
        print("\n".join(f"{workload.op:20} {workload.name}" for workload in workloads))
        return 0
    if not workloads:
        raise ValueError("bench: nothing to measure; see --list.")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench: --device cuda, but torch sees no CUDA device.")
    brief = arguments.quick or arguments.sweep
    usual = torch.get_num_threads()
    found: list[Results] = []
    for threads in arguments.threads or [None]:
        torch.set_num_threads(threads or usual)
        options = Options(device, getattr(torch, arguments.dtype), brief, allocator=allocator)
        options.budget = arguments.budget or (0.4 if brief else 1.0 if arguments.first else options.budget)
        options.compiles = not arguments.no_compile
        here = Results(provenance(device, allocator, words), measure_machine(options), [])
        table = Table()
        print(head(here), table.heading(), sep="\n", flush=True)
        here.rows = run(workloads, options, here.machine, table.print)
        here.provenance["load_after"] = load()
        print(legend(here), flush=True)
        found.append(here)
    if arguments.allocator == "both" and allocator == "warm":
        print(flush=True)
        found += _other_process(words)
    results = found[0]
    for other in found[1:]:
        results.rows += other.rows
        results.machines.append(other.machine)
    if arguments.json:
        results.save(arguments.json)
    if arguments.results:
        path = arguments.results / results.file_name("-sweep" if arguments.sweep else "")
        results.save(path)
        _page(path)
        print(f"wrote {path}, and the page and the plot beside it")
    drawn = _draw(results, arguments.plot) if arguments.plot else []
    if arguments.markdown:
        arguments.markdown.write_text(markdown(results, [path.name for path in drawn]))
    return 1 if any(t.status.startswith("WRONG") for row in results.rows for t in row.providers.values()) else 0


def _page(path: Path) -> None:
    """The markdown page and the plots of committed results, beside them."""
    from .report import markdown
    from .results import Results

    results = Results.load(path)
    drawn = _draw(results, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(markdown(results, [drawing.name for drawing in drawn]))


def _draw(results: Results, path: Path) -> list[Path]:
    from .plots import pictures
    from .results import warn

    try:
        return pictures(results, path)
    except ImportError:
        warn("no plot: matplotlib is not installed (pip install matplotlib).")
        return []


def _other_process(words: list[str]) -> list[Results]:
    """The same with malloc as it comes; thresholds once set cannot be unset, so in a process of its own."""
    from .results import Results

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "default.json"
        kept = _without(words, ("--json", "--results", "--markdown", "--plot", "--allocator", "--threads"))
        subprocess.run(
            [sys.executable, "-m", "genkern.bench", *kept, "--allocator", "default", "--json", str(path)], check=False
        )
        return [Results.load(path)] if path.exists() else []


def _without(words: list[str], options: Sequence[str]) -> list[str]:
    """The words less some options and their values."""
    kept, skip = [], False
    for word in words:
        if word.startswith("--"):
            skip = word in options
        if skip:
            continue
        if not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def _compare(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="genkern bench compare", description="What became slower from A to B.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--fail-ratio", type=float, metavar="R", help="exit with 1 if a row takes more than R times")
    arguments = parser.parse_args(words)
    from . import instructions
    from .results import Results

    counts = [json.loads(path.read_text()) for path in (arguments.before, arguments.after)]
    if all(content.get("kind") == instructions.KIND for content in counts):
        allowed = instructions.TOLERANCE if arguments.fail_ratio is None else arguments.fail_ratio - 1
        text, failed = instructions.compare(counts[0], counts[1], allowed)
        failed = failed and arguments.fail_ratio is not None
    else:
        loaded = [Results.load(path) for path in (arguments.before, arguments.after)]
        text, failed = compare.compare(loaded[0], loaded[1], arguments.fail_ratio)
    print(text)
    return 1 if failed else 0


def _readme(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="genkern bench readme", description="Writes the README's table.")
    parser.add_argument("results", type=Path)
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args(words)
    _page(arguments.results)
    readme.write(arguments.results, arguments.readme)
    return 0

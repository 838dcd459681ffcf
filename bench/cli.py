"""`genkern bench` and `python -m genkern.bench`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import compare, readme, timing


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
        return _run(words)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genkern bench",
        description="Times genkern against eager PyTorch, torch.compile and rivals, in turn, after checking the values."
        " `bench compare A.json B.json` compares two runs; `bench readme RESULTS.json README.md` writes the table;"
        " `bench training` trains a Glow of these layers and one of normflows'.",
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
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of torch")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds of timing for each workload and mode")
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
    parser.add_argument("--results", type=Path, metavar="DIR", help="write DIR/<machine>-<date>.json, .md and .png")
    parser.add_argument("--markdown", type=Path, metavar="F", help="write a report")
    parser.add_argument("--plot", type=Path, metavar="F", help="write a PNG (needs matplotlib)")
    return parser


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

    from .plots import picture
    from .registry import select
    from .report import Table, head, legend, markdown
    from .results import Results, load, provenance, warn
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
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    brief = arguments.quick or arguments.sweep
    options = Options(device, getattr(torch, arguments.dtype), brief, allocator=allocator)
    options.budget = arguments.budget or (0.4 if brief else options.budget)

    results = Results(provenance(device, allocator, words), measure_machine(options), [])
    table = Table()
    print(head(results), table.heading(), sep="\n", flush=True)
    results.rows = run(workloads, options, results.machine, lambda row: print(table.row(row), flush=True))
    results.provenance["load_after"] = load()
    print(legend(results))
    if arguments.allocator == "both" and allocator == "warm":
        print(flush=True)
        results.rows += _other_process(words)
    if arguments.json:
        results.save(arguments.json)
    if arguments.results:
        path = arguments.results / results.file_name("-sweep" if arguments.sweep else "")
        results.save(path)
        _page(path)
        print(f"wrote {path}, and the page and the plot beside it")
    if arguments.plot:
        try:
            picture(results, arguments.plot)
        except ImportError:
            warn("no plot: matplotlib is not installed (pip install matplotlib).")
    if arguments.markdown:
        name = arguments.plot.name if arguments.plot and arguments.plot.exists() else None
        arguments.markdown.write_text(markdown(results, name))
    return 1 if any(t.status.startswith("WRONG") for row in results.rows for t in row.providers.values()) else 0


def _page(path: Path) -> None:
    """The markdown page and the plot of committed results, beside them."""
    from .plots import picture
    from .report import markdown
    from .results import Results, warn

    results, drawing = Results.load(path), path.with_suffix(".png")
    try:
        picture(results, drawing)
    except ImportError:
        warn("no plot: matplotlib is not installed (pip install matplotlib).")
    path.with_suffix(".md").write_text(markdown(results, drawing.name if drawing.exists() else None))


def _other_process(words: list[str]) -> list:
    """The same with malloc as it comes; thresholds once set cannot be unset, so in a process of its own."""
    from .results import Results

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "default.json"
        kept = _without(words, ("--json", "--results", "--markdown", "--plot", "--allocator"))
        subprocess.run(
            [sys.executable, "-m", "genkern.bench", *kept, "--allocator", "default", "--json", str(path)], check=False
        )
        return Results.load(path).rows if path.exists() else []


def _without(words: list[str], options: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def _compare(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="genkern bench compare", description="What became slower from A to B.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--fail-ratio", type=float, metavar="R", help="exit with 1 if a row takes more than R times")
    arguments = parser.parse_args(words)
    from .results import Results

    text, failed = compare.compare(Results.load(arguments.before), Results.load(arguments.after), arguments.fail_ratio)
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

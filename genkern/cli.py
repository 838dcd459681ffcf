"""The command line: ``genkern train | sample | score | models | layers | info | bench``."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ImportError:
    raise SystemExit(
        "genkern's command line needs typer and rich: pip install 'genkern[train]'\n"
        "Without them: python -c 'import genkern; print(genkern.info())', and python -m genkern.bench"
    ) from None

from ._errors import Diverged, Interrupted

if TYPE_CHECKING:
    from .models import GenerativeModel

# torch, matplotlib and Lightning are imported by the commands that need them, so that --help comes at once

app = typer.Typer(
    help="Deep generative models on fast, exact kernels: train them, sample from them, measure them.",
    epilog="An error is one line; with GENKERN_DEBUG=1 in the environment its trace is shown, too.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
RUN_OPTIONS, MODEL_OPTIONS = "Run", "Optimisation"
PICTURES = "digits, mnist, fashion, patches8, patches32, photos8, photos32"
POINTS = "eight-gaussians, checkerboard, two-moons"
DATA_HELP = f"Data set: {PICTURES}, {POINTS}."


@app.command(
    epilog="Several processes: torchrun --nproc-per-node 2 -m genkern train MODEL ... (--batch-size is that of all)."
)
def train(
    model: Annotated[str, typer.Argument(help="A preset; `genkern models` lists them.", show_default=False)],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "digits",
    steps: Annotated[
        int | None,
        typer.Option(help="Updates of the weights (default: the preset's, or 1500).", rich_help_panel=MODEL_OPTIONS),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Samples a step (default: the preset's, or 64 pictures, 256 points).", rich_help_panel=MODEL_OPTIONS
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate of Adam (default: the preset's, or 0.003).", rich_help_panel=MODEL_OPTIONS),
    ] = None,
    schedule: Annotated[str, typer.Option(help="cosine or constant.", rich_help_panel=MODEL_OPTIONS)] = "cosine",
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.", rich_help_panel=MODEL_OPTIONS)] = 100,
    betas: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Of Adam (default: the model's or the preset's, or 0.9 0.999).", rich_help_panel=MODEL_OPTIONS
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="Of AdamW (0: Adam; default: the preset's, or 0.01).", rich_help_panel=MODEL_OPTIONS),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help="Largest norm of the gradient (0: any; default: the preset's, or 0).", rich_help_panel=MODEL_OPTIONS
        ),
    ] = None,
    ema: Annotated[
        float | None,
        typer.Option(
            help="Decay of the average of the weights (0: none; default: the preset's, or 0.999).",
            rich_help_panel=MODEL_OPTIONS,
        ),
    ] = None,
    patience: Annotated[
        int,
        typer.Option(
            help="Stop after so many evaluations without a better one (0: never).", rich_help_panel=MODEL_OPTIONS
        ),
    ] = 0,
    precision: Annotated[
        str, typer.Option(help="32, bf16 or 16 (mixed), or 64.", rich_help_panel=MODEL_OPTIONS)
    ] = "32",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A field of the model's config; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder (default: runs/MODEL-DATA).", rich_help_panel=RUN_OPTIONS)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in the folder, if there is one.", rich_help_panel=RUN_OPTIONS
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUN_OPTIONS)] = "auto",
    seed: Annotated[int, typer.Option(help="Of weights, noise and order.", rich_help_panel=RUN_OPTIONS)] = 0,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps (default: the preset's, or 100).", rich_help_panel=RUN_OPTIONS)
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps.", rich_help_panel=RUN_OPTIONS)] = 100,
) -> None:
    """Train a model and leave a run folder: config, metrics, checkpoint, best model, pictures, summary.

    Killed at any moment, the same command with --resume goes on, and ends with the same weights.
    """
    from . import experiments
    from .experiments.progress import for_terminal

    config = experiments.suggested(
        model, data, options=_options(set_ or []), steps=steps, batch_size=batch_size, lr=lr,
        betas=betas, schedule=schedule, warmup=warmup, weight_decay=weight_decay, clip=clip, ema=ema,
        patience=patience, precision=precision, seed=seed, evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    folder = out or Path("runs") / f"{model}-{data}"
    summary = experiments.train(config, folder, device=device, resume=resume, report=for_terminal())
    if summary:
        _print_summary(summary, folder)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder, or the folder of a saved model.", show_default=False)],
    n: Annotated[int, typer.Option("--n", "-n", help="Samples.")] = 64,
    temperature: Annotated[float, typer.Option(help="Below 1: closer to the mode.")] = 1.0,
    label: Annotated[int | None, typer.Option(help="Of a model with classes (default: drawn evenly).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An argument of the model's sample, such as guidance=2."),
    ] = None,
    out: Annotated[Path, typer.Option(help="A picture (.png) or an array (.npy).")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(help="The same seed draws the same samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Draw samples from a trained model."""
    import inspect

    import torch

    from . import random
    from ._files import write_atomically
    from ._names import unknown
    from .experiments import data
    from .experiments.run import Run
    from .experiments.summary import save_samples

    if n < 1:
        raise ValueError(f"--n must be positive, got {n}.")
    if not temperature >= 0:
        raise ValueError(f"--temperature must not be negative, got {temperature}.")
    if out.suffix not in (".png", ".npy"):
        raise ValueError(f"--out must end in .png or .npy, got {out}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _load(run).to(device)
    if label is not None and getattr(model.config, "classes", None) is None:
        raise ValueError(f"--label: the {type(model).__name__} in {run} has no classes.")
    conditions: dict[str, Any] = {} if label is None else {"y": label}
    known = inspect.signature(model.sample).parameters.keys() - {"n", "key", "temperature", "y"}
    for name, value in _options(set_ or []).items():
        if name not in known:
            raise unknown(f"argument of the {type(model).__name__}'s sample", name, known)
        conditions[name] = value
    key = random.key(seed, device=device)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npy":
        import numpy

        with torch.no_grad():
            samples = model.sample(n, key=key, temperature=temperature, **conditions).cpu().numpy()
        write_atomically(out, lambda path: numpy.save(path, samples))
    else:
        written = Run(run).read_config() or {}
        data_set = data.load(written["data"]) if written and model.config.levels is None else None
        save_samples(out, model, key, n=n, temperature=temperature, data_set=data_set, **conditions)
    print(f"{n} samples: {out}")


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="A run folder, or the folder of a saved model.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="Labelled pictures (default: those of the run).")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Samples.")] = 450,
    seed: Annotated[int, typer.Option(help="The same seed draws the same samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Fréchet distance between samples and held-out pictures, on the features of a small classifier."""
    import torch

    from . import random
    from .experiments import data as data_sets
    from .experiments import features
    from .experiments.run import Run

    if n < 2:
        raise ValueError(f"--n must be at least 2, got {n}.")
    written = Run(run).read_config() or {}
    if data is None and "data" not in written:
        raise ValueError(f"{run} does not say on what data it was trained; give --data.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, data_set = _load(run).to(device), data_sets.load(data or written["data"])
    with torch.no_grad():
        samples = model.sample(n, key=random.key(seed, device=device))
    found = features.score(samples, data_set)
    print(f"{found.distance:.1f} of {found.samples} samples; {found.real:.1f} of as many training pictures "
          f"(classifier: {100 * found.accuracy:.1f} % right)")  # fmt: skip


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="A preset, to see every field that --set can change.")] = None,
) -> None:
    """List the presets, or show one."""
    from rich.console import Console
    from rich.table import Table

    from ._names import unknown
    from .models import presets

    known = presets()
    if name is not None:
        if name not in known:
            raise unknown("model", name, known)
        print(f"{name}: {known[name].model.__name__}, which has {', '.join(_capabilities(known[name].model))}")
        for field, value in vars(known[name].config).items():
            print(f"  {field}={value!r}")
        return
    table = Table("preset", "shape", "levels", "system", box=None, header_style="bold", pad_edge=False)
    for name, (model, config) in known.items():
        system = (sys.modules[model.__module__].__doc__ or model.__name__).strip().splitlines()[0]
        table.add_row(name, "x".join(map(str, config.shape)), str(config.levels or "-"), system)
    Console().print(table, highlight=False)


@app.command()
def layers(
    markdown: Annotated[bool, typer.Option("--markdown", help="As in docs/layers.md.")] = False,
) -> None:
    """List the flow layers: what each computes, how it inverts, and what it costs."""
    from rich.console import Console
    from rich.table import Table

    from .nn.flows import catalogue

    if markdown:
        print(catalogue.markdown(), end="")
        return
    console = Console()
    if console.width >= 150:  # what the table needs
        table = Table(*catalogue.COLUMNS, header_style="bold", show_lines=True)
        for row in catalogue.rows():
            table.add_row(*row)
        console.print(table, highlight=False, markup=False)
        return
    for name, *cells in catalogue.rows():
        table = Table(title=name, title_justify="left", title_style="bold", box=None, show_header=False)
        for column, cell in zip(catalogue.COLUMNS[1:], cells, strict=True):
            table.add_row(column, cell)
        console.print(table, highlight=False, markup=False)


@app.command()
def info() -> None:
    """Versions, what was built, and which backend every op would run on, and why."""
    import genkern

    print(genkern.info())


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Measure genkern against eager PyTorch and torch.compile (`genkern bench --help`)."""
    import importlib

    runner = importlib.import_module("genkern.bench")
    sys.exit(runner.main(context.args))


def main() -> None:
    """Runs a command; what a user can do something about is one line on stderr, not a stack trace."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="genkern", standalone_mode=False))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        _fail(error)


def _fail(error: Exception) -> None:
    """One line for the errors that genkern and the command line raise on purpose; others keep their trace."""
    code = getattr(error, "exit_code", 1)  # of a command line that cannot be understood: 2
    if hasattr(error, "format_message"):
        message = error.format_message()
        if getattr(error, "ctx", None) is not None:
            message += f" (see {error.ctx.command_path} --help)"  # type: ignore[attr-defined]
    elif isinstance(error, ValueError | ImportError | OSError | Diverged | Interrupted):
        message = str(error)
        code = 130 if isinstance(error, Interrupted) else 1
    else:
        raise error
    if os.environ.get("GENKERN_DEBUG") == "1":
        raise error
    if os.environ.get("RANK", "0") == "0":
        print(f"genkern: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _options(assignments: list[str]) -> dict[str, Any]:
    """``["hidden=64"]`` as ``{"hidden": 64}``; what is not a Python literal is a string."""
    options = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE, got {assignment!r}.")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def _load(folder: Path) -> GenerativeModel:
    from . import models
    from .models._base import WEIGHTS

    for place in (folder / "best", folder):
        if (place / WEIGHTS).is_file():
            return models.load(place)
    raise ValueError(f"{folder} is neither a run with a best model nor a saved model.")


def _capabilities(model: type[GenerativeModel]) -> list[str]:
    from .models._base import CAPABILITIES

    return [name for name in CAPABILITIES if callable(getattr(model, name, None))]


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {f"{summary['data']}, test part, {summary['model']}": summary["test"], **summary["baselines"]}
    for i, (name, value) in enumerate(rows.items()):
        table.add_row(name, f"{value:.4f}", summary["unit"], style="bold" if i == 0 else "")
    if "reconstruction" in summary:
        error = summary["reconstruction"]
        rounded = f", {error['before_rounding']:.1e} before rounding" if "before_rounding" in error else ""
        table.add_row("reconstruction error", f"{error['rmse']:.1e}", f"rmse ({error['max']:.1e} at most{rounded})")
    console = Console()
    console.print(table)
    console.print(f"{summary['steps']} steps in {summary['seconds']:.0f} s; everything is in {folder}", highlight=False)

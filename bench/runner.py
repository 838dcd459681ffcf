"""Runs workloads: checks every provider's values, then times them all in turn, and keeps what was seen."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch._dynamo.utils
from torch import Tensor

from genkern.nn.memory import bytes_saved

from . import gate as gates
from .memory import peak_bytes
from .registry import FORWARD, TRAIN, Function, Inputs, Workload, leaves, tensors_of
from .timing import Call, Spread, Timer, cuda_graph, interleave, ratio, timer_for

COPY, TRAFFIC = "copy of x", "copy of the traffic"
NOISY = 0.35  # relative spread of a copy's time beyond which a machine was not quiet
BUSY = 0.85  # least share of the time that this thread must have had a core to itself
SLOW = 1.5  # seconds of a call whose allocations are not listed one by one
OK = "ok"


@dataclass
class Options:
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    quick: bool = False
    budget: float = 4.0  # seconds of timing for each workload and mode
    allocator: str = "default"
    threads: int = field(default_factory=torch.get_num_threads)
    compiles: bool = True  # whether torch.compile takes part
    timer: Timer | None = None
    seed: int = 0


@dataclass
class Timed:
    """What one provider did."""

    status: str  # "ok", or why there is no time
    first_call: float | None = None  # seconds, with compilation
    time: Spread | None = None  # seconds a call
    graph: Spread | None = None  # the same as a CUDA graph
    ratio: Spread | None = None  # time over that of genkern, by rounds
    saved_bytes: int | None = None  # for backward
    peak_bytes: int | None = None  # most memory above the inputs in a call
    compile_time: float | None = None  # seconds of the first call in which torch.compile traced and compiled


@dataclass
class Row:
    """One workload in one mode."""

    op: str
    workload: str
    mode: str
    device: str
    dtype: str
    allocator: str
    launch: bool
    shapes: list[list[int]]
    bytes_moved: int
    flops: int
    providers: dict[str, Timed]
    copy: Spread | None = None  # seconds of copy_ of x
    copies: Spread | None = None  # genkern in units of it
    roofline: float | None = None  # share of the copy bandwidth, or of the GEMM rate, whichever binds
    sweep: bool = False
    threads: int | None = None
    on_core: float | None = None  # CPU: share of the time for which this thread ran; the rest went to other programs

    @property
    def noisy(self) -> bool:
        restless = not self.launch and self.copy is not None and self.copy.relative > NOISY
        return restless or (self.on_core is not None and self.on_core < BUSY)


@dataclass(frozen=True)
class Machine:
    """What this machine can do at best, measured."""

    copy_bytes_per_second: float
    gemm_flops_per_second: float
    allocator: str = ""  # under which, with how many threads
    threads: int = 0


def measure_machine(options: Options) -> Machine:
    """The rate of a copy beyond the caches (bytes read plus written), and the best of large matrix products."""
    timer = options.timer or timer_for(options.device)
    size = (1 << 28 if options.device.type == "cuda" else 1 << 24) // (4 if options.quick else 1)
    sides = (8192,) if options.device.type == "cuda" else (1024,) if options.quick else (1024, 2048)
    x = torch.rand(size, device=options.device)
    y = torch.empty_like(x)
    functions: dict[str, Call] = {"copy": lambda: y.copy_(x)}
    for n in sides:
        a = torch.rand(n, n, device=options.device, dtype=options.dtype)
        c = torch.empty_like(a)
        functions[f"gemm {n}"] = lambda a=a, c=c: torch.mm(a, a, out=c)  # type: ignore[misc]
    for function in functions.values():
        function()
    times = interleave(functions, timer, budget=0.3 if options.quick else 1.0)
    gemm = max(2 * n**3 / min(times[f"gemm {n}"]) for n in sides)
    return Machine(8 * size / min(times["copy"]), gemm, options.allocator, options.threads)


# -- providers ------------------------------------------------------------------------------------------------------


def providers(workload: Workload, mode: str, quick: bool) -> dict[str, Callable[[], tuple[Function, bool]]]:
    """Who takes part, by name: a maker of the function, and whether its values must be right."""
    eager = workload.run("torch")
    makers: dict[str, Callable[[], tuple[Function, bool]]] = {
        "genkern": lambda: (workload.run("auto"), True),
        "eager": lambda: (eager, True),
    }
    if mode in workload.compiles:
        compiled = workload.compiled or (lambda: torch.compile(eager, dynamic=False))
        makers["compile"] = lambda: (compiled(), True)
    for name, rival in workload.rivals.items():
        if mode in rival.modes:
            makers[name] = lambda rival=rival: (rival.build(), rival.same_values)  # type: ignore[misc]
    if quick:
        return {name: make for name, make in makers.items() if name == "genkern" or name in workload.quick}
    return makers


def run(
    workloads: Iterable[Workload],
    options: Options,
    machine: Machine | None = None,
    report: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    rows = []
    for workload in workloads:
        for mode in workload.modes:
            rows.append(run_workload(workload, mode, options, machine))
            report(rows[-1])
    return rows


def run_workload(workload: Workload, mode: str, options: Options, machine: Machine | None = None) -> Row:
    torch.manual_seed(options.seed)
    inputs = workload.make(options.device, options.dtype)
    with torch.no_grad():
        outputs = tensors_of(workload.run("torch")(*inputs))
    cotangents = [torch.randn_like(out) for out in outputs if out.is_floating_point()] if mode == TRAIN else None
    if cotangents is not None:
        for leaf in leaves(inputs):
            leaf.requires_grad_()
    gate = gates.gate(workload.run("torch"), inputs, cotangents)

    def call_of(function: Function) -> Call:
        if cotangents is None:
            return gates.forward_pass(function, inputs)
        return gates.training_step(function, inputs, cotangents)

    timed: dict[str, Timed] = {}
    calls: dict[str, Call] = {}
    makers = providers(workload, mode, options.quick)
    if not options.compiles:
        makers = {name: make for name, make in makers.items() if "compile" not in name}
    if "compile" in makers:
        torch.compiler.reset()  # or the caches of other workloads count against a limit
    for name, make in makers.items():
        rival = workload.rivals.get(name)
        only_outputs = rival is not None and not rival.same_gradients
        timed[name], function = admit(make, call_of, gate, options.device, len(outputs) if only_outputs else None)
        if function is not None:
            calls[name] = call_of(function)
            timed[name].saved_bytes = bytes_saved(function, *inputs) if mode == TRAIN else None
    moved = bytes_moved(workload, inputs, outputs, mode)
    row = Row(
        workload.op, workload.name, mode, options.device.type, str(options.dtype).removeprefix("torch."),
        options.allocator, workload.launch, [list(t.shape) for t in inputs if isinstance(t, Tensor)], moved,
        workload.flops * (3 if mode == TRAIN else 1), timed, sweep=workload.sweep, threads=options.threads,
    )  # fmt: skip
    measure(row, calls, unit_of(inputs, outputs), options)
    if machine is not None:
        apply_gemm_bound(row, machine)
    return row


def admit(
    make: Callable[[], tuple[Function, bool]],
    call_of: Callable[[Function], Call],
    gate: gates.Gate,
    device: torch.device,
    compared: int | None = None,
) -> tuple[Timed, Function | None]:
    """Calls a provider for the first time; it may be timed if its values, or the first ``compared``, are right."""
    try:
        function, same_values = make()
    except ImportError as error:
        return Timed(f"not installed: {error.name or error}"), None
    call = call_of(function)
    start, compiling = time.perf_counter(), compile_seconds()
    try:
        values = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:  # a provider that cannot run is a row of the table, not the end of it
        text = str(error).strip().splitlines()
        return Timed(f"failed: {type(error).__name__}: {text[0] if text else ''}"[:200]), None
    first = time.perf_counter() - start
    timed = Timed(OK, first_call=first)
    compiling = compile_seconds() - compiling
    timed.compile_time = compiling if compiling > 0 else None
    objection = gate.objection(values, compared) if same_values else None
    if objection:
        timed.status = f"WRONG: {objection}"
        return timed, None
    del values
    if device.type == "cuda" or first - compiling < SLOW:  # on a GPU the first call compiles kernels
        timed.peak_bytes = peak_bytes(call, device)
    return timed, function


def compile_seconds() -> float:
    """Seconds that this process has spent in torch.compile."""
    return torch._dynamo.utils.calculate_time_spent().get("total_wall_time", 0.0)


def measure(row: Row, calls: dict[str, Call], unit: Tensor, options: Options) -> None:
    """Fills in the times: all providers and the copies in turn."""
    timer = options.timer or timer_for(options.device)
    source, target = unit.detach().contiguous(), torch.empty_like(unit.detach().contiguous())
    half = torch.empty(max(row.bytes_moved // 8, 1), device=options.device)
    other = torch.empty_like(half).copy_(half.zero_())
    copies: dict[str, Call] = {COPY: lambda: target.copy_(source), TRAFFIC: lambda: other.copy_(half)}
    wall, own = time.perf_counter(), time.thread_time()
    times = interleave({**calls, **copies}, timer, budget=options.budget, seed=options.seed)
    if options.device.type == "cpu" and options.timer is None:
        row.on_core = (time.thread_time() - own) / (time.perf_counter() - wall)
    row.copy = Spread.of(times[COPY])
    ours = times.get("genkern")
    for name in calls:
        row.providers[name].time = Spread.of(times[name])
        row.providers[name].ratio = ratio(times[name], ours) if ours else None
    if ours:
        row.copies = ratio(ours, times[COPY])
        row.roofline = ratio(times[TRAFFIC], ours).median
    if options.device.type == "cuda":
        measure_graphs(row, calls, timer, options)


def measure_graphs(row: Row, calls: dict[str, Call], timer: Timer, options: Options) -> None:
    graphs = {}
    for name, call in calls.items():
        try:
            graphs[name] = cuda_graph(call)
        except Exception as error:  # what cannot be captured has no time as a graph
            print(f"bench: {row.op} {row.workload} {row.mode}: {name} is no CUDA graph: {error}", file=sys.stderr)
            torch.cuda.synchronize(options.device)
    for name, values in interleave(graphs, timer, budget=options.budget, seed=options.seed).items() if graphs else ():
        row.providers[name].graph = Spread.of(values)


# -- denominators ---------------------------------------------------------------------------------------------------


def size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bytes_moved(workload: Workload, inputs: Inputs, outputs: Sequence[Tensor], mode: str) -> int:
    """The traffic of the definition: every input read once, every output written once, and so backward."""
    read = [value for value in inputs if isinstance(value, Tensor)]
    forward = size(read) + size(outputs)
    if mode == FORWARD:
        return forward
    needed = range(len(read)) if workload.backward_reads is None else workload.backward_reads
    grads = size(out for out in outputs if out.is_floating_point()) + size(leaves(inputs))
    return forward + size(read[i] for i in needed) + grads


def unit_of(inputs: Inputs, outputs: Sequence[Tensor]) -> Tensor:
    """The x of "copies": the larger of the first input and the first output."""
    first = next(value for value in inputs if isinstance(value, Tensor))
    return max(first, outputs[0], key=lambda tensor: size([tensor]))


def apply_gemm_bound(row: Row, machine: Machine) -> None:
    """Where arithmetic binds and not memory, the share of the roofline is that of the GEMM rate."""
    ours = row.providers["genkern"].time
    if row.flops and ours and row.roofline is not None:
        row.roofline = max(row.roofline, row.flops / machine.gemm_flops_per_second / ours.median)

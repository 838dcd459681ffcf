"""The benchmark's own claims: everything is measured, wrong values are refused, and ratios are what clocks say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import genkern
from genkern.bench import compare, main, plots, readme, registry, report, timing
from genkern.bench.registry import FORWARD, MODES, TRAIN, Rival, Workload
from genkern.bench.results import Results, provenance
from genkern.bench.runner import Machine, Options, Row, Timed, measure_machine, run, run_workload
from genkern.bench.timing import Spread
from genkern.ops._library import OPS

ROOT = Path(__file__).parents[1]


class Clock:
    """A timer that takes each function's word for how long it ran, and never waits."""

    def __init__(self, seconds: float = 1e-3):
        self.seconds = seconds

    def __call__(self, function, calls):
        return getattr(function, "seconds", self.seconds)


def lasting(seconds):
    def function():
        raise AssertionError("a fake timer does not call")

    function.seconds = seconds
    return function


def square(factor=1.0, **description):
    """x -> x^2, or something near it when genkern runs."""

    def make(device, dtype):
        return (torch.randn(8, 16).to(device, dtype),)

    def outcome(impl):
        return lambda x: (x.square() * (factor if impl == "auto" else 1.0), x.sum(1))

    return Workload("square", make, outcome, op="square", **description)


def options(**changes):
    return Options(timer=Clock(), budget=0.01, quick=True, **changes)


def a_row(op="op", median=2e-3, **changes):
    ours = Timed("ok", 0.1, Spread(median, median, median), None, Spread(1.0, 1.0, 1.0), 64)
    eager = Timed("ok", 0.1, Spread(3e-3, 2e-3, 4e-3), None, Spread(1.5, 1.4, 1.6), 128)
    fields = {
        "op": op, "workload": "4x4", "mode": TRAIN, "device": "cpu", "dtype": "float32", "allocator": "warm",
        "launch": False, "shapes": [[4, 4]], "bytes_moved": 128, "flops": 0,
        "providers": {"genkern": ours, "eager": eager, "compile": Timed("failed: X")},
        "copy": Spread(1e-3, 1e-3, 1e-3), "copies": Spread(median / 1e-3, 1.0, 3.0), "roofline": 0.5,
    }  # fmt: skip
    return Row(**{**fields, **changes})


def results(*rows):
    return Results(provenance(torch.device("cpu"), "warm", ["--quick"]), Machine(1e10, 1e11), list(rows))


# -- the registry ---------------------------------------------------------------------------------------------------


def test_every_op_has_workloads():
    folders = {path.parent.name for path in Path(genkern.__file__).parent.glob("ops/*/__init__.py")}
    folders |= {op.definition.__module__.split(".")[2] for op in OPS.values()}
    assert folders <= {workload.op for workload in registry.workloads()}


def test_every_op_is_in_the_quick_run_and_has_its_launch_measured():
    for op in OPS.values():
        mine = [w for w in registry.workloads() if w.op == op.definition.__module__.split(".")[2]]
        assert any(workload.quick for workload in mine), op.name
        assert any(workload.launch for workload in mine), op.name


def test_names_are_unique_and_modes_are_known():
    names = [(workload.op, workload.name, workload.sweep) for workload in registry.workloads()]
    assert len(set(names)) == len(names)
    assert all(set(workload.modes) <= set(MODES) and workload.modes for workload in registry.workloads())


@pytest.mark.parametrize("op", sorted({workload.op for workload in registry.workloads()}))
def test_every_op_is_swept_over_growing_sizes(op):
    swept = registry.select([op], sweep=True)
    assert len(swept) >= 3 and len({workload.name for workload in swept}) == len(swept)


def test_quick_providers_are_providers():
    for workload in registry.workloads():
        assert set(workload.quick) <= {"eager", "compile", *workload.rivals}


def test_an_unknown_op_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'affine_coupling'"):
        registry.select(["afine_coupling"])


@pytest.mark.parametrize("op", sorted({workload.op for workload in registry.workloads()}))
def test_launch_sized_workloads_have_right_values(op):
    for workload in registry.select([op]):
        if workload.launch:
            for row in run([workload], Options(timer=Clock(), budget=0.01, quick=True)):
                assert {name: timed.status for name, timed in row.providers.items()} == {"genkern": "ok"}, row.mode


# -- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_right_values_are_timed(mode):
    timed = run_workload(square(quick=("eager",)), mode, options()).providers
    assert timed["genkern"].status == timed["eager"].status == "ok"
    assert timed["genkern"].time is not None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [1.0001, -1.0, float("nan"), float("inf")])
def test_a_wrong_kernel_is_not_timed(mode, factor):
    row = run_workload(square(factor, quick=("eager",)), mode, options())
    assert row.providers["genkern"].status.startswith("WRONG")
    assert row.providers["genkern"].time is None and row.copies is None
    assert row.providers["eager"].time is not None
    assert "WRONG" in report.Table().row(row)


def test_a_kernel_with_right_values_and_wrong_gradients_is_not_timed():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.square()

        @staticmethod
        def backward(ctx, grad):
            return grad

    def outcome(impl):
        return Broken.apply if impl == "auto" else torch.square

    workload = Workload("broken", lambda device, dtype: (torch.randn(4, 4),), outcome, quick=("eager",))
    assert run_workload(workload, FORWARD, options()).providers["genkern"].status == "ok"
    assert run_workload(workload, TRAIN, options()).providers["genkern"].status.startswith("WRONG")


def test_infinities_of_the_reference_are_wanted_not_refused():
    def outcome(impl):
        return lambda x: torch.where(x > 0, x, -float("inf"))

    workload = Workload("infinite", lambda device, dtype: (torch.randn(4, 4),), outcome)
    assert run_workload(workload, FORWARD, options()).providers["genkern"].status == "ok"


def test_a_rival_that_is_missing_or_fails_is_a_remark_and_not_the_end():
    def missing():
        raise ImportError("no such library", name="rival")

    def failing():
        def function(x):
            raise RuntimeError("out of luck")

        return function

    rivals = {"missing": Rival(missing), "failing": Rival(failing), "trains": Rival(failing, modes=(TRAIN,))}
    row = run_workload(square(rivals=rivals, quick=tuple(rivals)), FORWARD, options())
    assert row.providers["missing"].status == "not installed: rival"
    assert row.providers["failing"].status == "failed: RuntimeError: out of luck"
    line = report.Table().row(row)
    assert "failing: failed: RuntimeError: out of luck" in line and "missing" not in line
    assert "not installed, so not measured: missing (" in report.legend(results(row))
    assert "trains" not in row.providers and row.providers["genkern"].status == "ok"


# -- clocks and denominators ----------------------------------------------------------------------------------------


def test_ratios_are_those_of_the_clock():
    functions = {"slow": lasting(6e-3), "fast": lasting(2e-3)}
    times = timing.interleave(functions, Clock(), budget=0.2)
    assert timing.ratio(times["slow"], times["fast"]) == Spread(3.0, 3.0, 3.0)
    assert len(times["slow"]) == len(times["fast"]) == int(0.2 / (6e-3 + 2e-3))


def test_a_disturbance_that_hits_a_whole_round_leaves_the_ratio_alone():
    quiet, busy = [1.0, 1.0, 1.0], [1.0, 5.0, 1.0]
    assert timing.ratio([2 * t for t in busy], busy) == timing.ratio([2 * t for t in quiet], quiet)


def test_everyone_runs_once_a_round_and_orders_differ():
    order: list[str] = []

    def timer(function, calls):
        order.append(function.name)
        return 1e-3

    functions = {}
    for name in "abc":
        functions[name] = lasting(1e-3)
        functions[name].name = name
    timing.interleave(functions, timer, budget=0.1, rounds=(20, 20))
    rounds = [tuple(order[i : i + 3]) for i in range(9, len(order), 3)]  # nine calls calibrate
    assert len(rounds) == 20 and len(set(rounds)) > 1
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)


def test_a_busy_machine_is_noticed():
    assert a_row(copy=Spread(1e-3, 0.8e-3, 1.3e-3)).noisy
    assert not a_row(copy=Spread(1e-3, 0.9e-3, 1.1e-3)).noisy
    assert a_row(on_core=0.5).noisy and not a_row(on_core=0.98).noisy


def test_traffic_counts_each_input_and_output_once_and_so_backward():
    x, y, log_det = 4 * 8 * 16, 4 * 8 * 16, 4 * 8
    assert run_workload(square(), FORWARD, options()).bytes_moved == x + y + log_det
    assert run_workload(square(), TRAIN, options()).bytes_moved == 2 * (x + y + log_det) + x
    assert run_workload(square(backward_reads=()), TRAIN, options()).bytes_moved == 2 * (x + y + log_det)


def test_saved_bytes_are_those_that_backward_needs():
    assert run_workload(square(), TRAIN, options()).providers["genkern"].saved_bytes == 4 * 8 * 16


def test_arithmetic_binds_where_it_takes_longer_than_memory():
    machine = measure_machine(options())
    row = run_workload(square(flops=int(0.5e-3 * machine.gemm_flops_per_second)), FORWARD, options(), machine)
    assert row.roofline == 1.0  # the clock gives the copy and genkern the same time
    slow = run_workload(square(flops=int(3e-3 * machine.gemm_flops_per_second)), FORWARD, options(), machine)
    assert slow.roofline == pytest.approx(3.0, rel=1e-3)


# -- results --------------------------------------------------------------------------------------------------------


def test_results_come_back_from_json_as_they_were(tmp_path):
    before = results(a_row(), a_row("other", copies=None, roofline=None))
    before.save(tmp_path / "a.json")
    assert Results.load(tmp_path / "a.json") == before


def test_results_are_named_after_machine_and_day():
    found = results()
    found.provenance |= {"machine": "NVIDIA H200", "date": "2026-01-02 03:04 UTC"}
    assert found.file_name() == "h200-2026-01-02.json"
    found.provenance["machine"] = "Intel(R) Xeon(R) Processor @ 2.80GHz"
    assert found.file_name() == "intel-xeon-2.80ghz-2026-01-02.json"


def test_results_of_another_schema_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match="schema"):
        Results.load(tmp_path / "a.json")


def test_provenance_says_where_numbers_come_from():
    facts = provenance(torch.device("cpu"), "warm", [])
    assert facts["versions"]["torch"] == torch.__version__
    assert {"machine", "cores", "threads", "date", "load", "allocator", "commit"} <= facts.keys()


def test_compare_finds_what_became_slower():
    before = results(a_row("same"), a_row("worse"), a_row("gone"))
    after = results(a_row("same"), a_row("worse", median=3e-3), a_row("new"))
    assert [(row.op, change) for row, change in compare.changes(before, after)] == [("worse", 1.5), ("same", 1.0)]
    text, failed = compare.compare(before, after, fail_ratio=1.1)
    assert failed and "gone" in text and "slower" in text
    assert not compare.compare(before, after, fail_ratio=1.6)[1]
    assert not compare.compare(before, after)[1]


def test_compare_is_a_command(tmp_path, capsys):
    for name, median in (("a", 2e-3), ("b", 4e-3)):
        results(a_row(median=median)).save(tmp_path / f"{name}.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--fail-ratio", "1.5"]) == 1
    assert "2.00×" in capsys.readouterr().out


# -- reports --------------------------------------------------------------------------------------------------------


def test_rows_that_lose_are_shown_and_marked():
    row = a_row()
    row.providers["eager"].ratio = Spread(0.5, 0.4, 0.6)
    assert f"0.50× {report.LOSES}" in report.Table().row(row)
    assert report.LOSES in report.legend(results(row)) and report.LOSES not in report.legend(results(a_row()))


def test_the_markdown_report_holds_every_row_and_its_spread():
    text = report.markdown(results(a_row(), a_row("other", allocator="default")))
    assert "| op | 4x4 |" in text and "| other | 4x4 |" in text and "1.50× (1.40–1.60)" in text
    assert "## Allocator: default" in text
    assert "copy 10 GB/s, GEMM 100 GFLOP/s" in text


@pytest.mark.parametrize("sweep", [False, True])
def test_the_plot_is_a_picture(tmp_path, sweep):
    pytest.importorskip("matplotlib")
    rows = [a_row(workload=str(n), bytes_moved=n, sweep=sweep) for n in (10, 100)]
    drawn = plots.pictures(results(*rows), tmp_path / "a.png")
    assert len(drawn) == (1 if sweep else 2)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_the_readme_command_writes_the_table_between_its_markers(tmp_path):
    (tmp_path / "bench/results").mkdir(parents=True)
    path = tmp_path / "bench/results/a.json"
    results(a_row()).save(path)
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    (tmp_path / "README.md").write_text(text)
    assert main(["readme", str(path), str(tmp_path / "README.md")]) == 0
    written = (tmp_path / "README.md").read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert readme.block(written) == readme.table(Results.load(path), "bench/results/a.json")


def test_the_readme_shows_what_the_committed_results_say():
    block = readme.block((ROOT / "README.md").read_text())
    assert block, "the README has no benchmark table"
    source = readme.SOURCE.search(block)
    assert source is not None, "the table does not name its results"
    path = f"bench/results/{source.group(1)}"
    assert block == readme.table(Results.load(ROOT / path), path)


def test_the_commands_of_the_package_can_be_listed(capsys):
    assert main(["--list", "--ops", "affine_coupling"]) == 0
    assert "sigmoid 64x48x16x16" in capsys.readouterr().out


def test_the_first_workload_of_each_op_can_be_had_alone(capsys):
    assert main(["--list", "--first"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == sorted({workload.op for workload in registry.workloads()})
    assert {"glow", "glow_step", "gated_pixelcnn", "causal_sample", "ddpm", "vqvae"} <= set(listed)


def test_a_wrong_name_ends_with_a_sentence_and_no_trace(capsys):
    assert main(["--ops", "afine_coupling"]) == 2
    assert "did you mean 'affine_coupling'" in capsys.readouterr().err


def test_a_folder_of_peers_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["--ops", "squeeze", "--peers", str(tmp_path / "none")]) == 2
    assert "`make peers`" in capsys.readouterr().err


def test_options_of_the_other_allocators_process_are_those_of_this_one():
    from genkern.bench.cli import _without

    words = ["--quick", "--json", "a.json", "--allocator=both", "--ops", "squeeze"]
    assert _without(words, ("--json", "--allocator")) == ["--quick", "--ops", "squeeze"]


def test_the_comparison_with_another_librarys_layers_says_what_to_install(monkeypatch, capsys):
    from genkern.bench import training

    monkeypatch.setitem(sys.modules, "normflows", None)
    monkeypatch.setitem(sys.modules, "normflows.flows", None)
    assert training.main(["--seeds", "0"]) == 2
    assert "pip install normflows" in capsys.readouterr().err

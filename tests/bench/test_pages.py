"""What the committed results say: every loss has its reason, and every condition its own section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from genkern.bench import compare, main, registry, report
from genkern.bench.memory import peak_bytes
from genkern.bench.registry import FORWARD, Rival, Workload
from genkern.bench.results import Results, provenance
from genkern.bench.runner import Machine, Options, Row, Timed, run_workload
from genkern.bench.timing import Spread

ROOT = Path(__file__).parents[2]
LINKED = re.findall(r"\(bench/results/([^)\s]+)\.(?:md|json)", (ROOT / "README.md").read_text())
SHOWN = [ROOT / f"bench/results/{name}.json" for name in dict.fromkeys(LINKED) if "instructions" not in name]


def a_row(op="planar", ratio=1.5, provider="compile", **changes):
    fine = Timed("ok", 0.1, time=Spread(1e-3, 1e-3, 1e-3), ratio=Spread(1.0, 1.0, 1.0))
    other = Timed("ok", 3.0, Spread(1e-3, 1e-3, 1e-3), ratio=Spread(ratio, ratio, ratio), compile_time=2.5)
    fields = {
        "op": op, "workload": "4x4", "mode": FORWARD, "device": "cpu", "dtype": "float32", "allocator": "warm",
        "launch": False, "shapes": [[4, 4]], "bytes_moved": 128, "flops": 0, "threads": 2,
        "providers": {"genkern": fine, provider: other},
    }  # fmt: skip
    return Row(**{**fields, **changes})


def results(*rows, machines=()):
    facts = {**provenance(torch.device("cpu"), "warm", []), "threads": 2}
    return Results(facts, Machine(1e10, 1e11, "warm", 2), list(rows), list(machines))


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_every_losing_row_of_the_results_that_the_readme_shows_has_a_reason(path):
    silent = [str(loss) for loss in report.losses(Results.load(path).rows) if loss.reason is None]
    assert not silent, "add the rival to REASONS in the workload's file, or make the op faster"


def test_reasons_name_providers_that_exist():
    for workload in registry.workloads():
        mine = [w for w in registry.workloads() if w.op == workload.op]
        known = {"eager", "compile"}.union(*(w.rivals for w in mine))
        assert set(workload.reasons) <= known, workload.op


def test_a_loss_is_shown_with_its_reason():
    lost = report.losses([a_row(ratio=0.5), a_row(ratio=2.0)])
    assert len(lost) == 1
    (line,) = report.reasons(lost)
    assert "0.50×" in line and lost[0].reason.lower() in line.lower()
    assert line in report.markdown(results(a_row(ratio=0.5)))


def test_a_loss_without_a_reason_says_so():
    assert "No reason is known" in report.reasons(report.losses([a_row(op="unheard of", ratio=0.5)]))[0]


def test_a_form_of_genkern_that_is_slower_or_faster_is_no_loss():
    row = a_row(ratio=0.5, provider="genkern compiled")
    assert not report.losses([row])
    assert report.LOSES not in report.cell(row, "genkern compiled")


def test_conditions_have_sections_and_ceilings_of_their_own():
    alone = a_row(threads=1)
    text = report.markdown(results(a_row(), alone, machines=[Machine(5e9, 5e10, "warm", 1)]))
    assert "## Allocator: warm, 2 threads" in text and "## Allocator: warm, 1 threads" in text
    assert "copy 10 GB/s, GEMM 100 GFLOP/s" in text and "copy 5 GB/s, GEMM 50 GFLOP/s" in text


def test_conditions_come_back_from_json(tmp_path):
    before = results(a_row(), a_row(threads=1), machines=[Machine(5e9, 5e10, "warm", 1)])
    before.save(tmp_path / "a.json")
    assert Results.load(tmp_path / "a.json") == before
    assert [row.threads for row in before.usual()] == [2]


def test_one_thread_is_not_compared_with_two():
    assert not compare.changes(results(a_row()), results(a_row(threads=1)))


def test_compiling_is_told_apart_from_the_first_call():
    text = report.markdown(results(a_row()))
    assert "| planar | 4x4 | forward | 100 ms | – | 3 s | 2.5 s |" in text


def test_a_run_on_a_busy_machine_is_called_too_noisy():
    busy, quiet = a_row(on_core=0.3), a_row(on_core=1.0)
    assert "TOO NOISY" in report.legend(results(busy, quiet, quiet))
    assert "TOO NOISY" not in report.legend(results(busy, *[quiet] * 9))


def test_the_peak_is_the_most_held_at_a_time():
    x = torch.zeros(1000, 1000)

    def call():
        y = x + 1  # 4 MB
        z = y + 1  # 8 MB
        del y
        return z + 1  # 8 MB again

    assert 8e6 <= peak_bytes(call, torch.device("cpu")) < 8.1e6


def test_gradients_of_another_parametrisation_need_not_agree_but_outputs_must():
    def make(device, dtype):
        return (torch.randn(4, 4).to(device, dtype),)

    def outcome(impl):
        return lambda x: x.square()

    def other(factor):
        return lambda: lambda x: factor * x.square().detach() + (x - x.detach())

    rivals = {
        "strict": Rival(other(1.0)),
        "loose": Rival(other(1.0), same_gradients=False),
        "wrong": Rival(other(1.1), same_gradients=False),
    }
    workload = Workload("square", make, outcome, rivals=rivals, quick=tuple(rivals))
    timer = lambda function, calls: 1e-3  # noqa: E731
    found = run_workload(workload, "forward+backward", Options(timer=timer, budget=0.01, quick=True)).providers
    assert found["loose"].status == "ok"
    assert found["strict"].status.startswith("WRONG") and found["wrong"].status.startswith("WRONG")


def test_a_run_with_several_numbers_of_threads_has_rows_and_ceilings_of_each(tmp_path):
    words = [
        "--quick",
        "--ops",
        "squeeze",
        "--budget",
        "0.01",
        "--threads",
        "2",
        "1",
        "--json",
        str(tmp_path / "a.json"),
    ]
    usual = torch.get_num_threads()
    try:
        assert main(words) == 0
    finally:
        torch.set_num_threads(usual)
    found = Results.load(tmp_path / "a.json")
    assert [threads for _, threads in found.conditions()] == [2, 1]
    assert [machine.threads for machine in (found.machine, *found.machines)] == [2, 1]
    assert all(row.providers["genkern"].peak_bytes for row in found.rows)

"""Counting instructions: what belongs to the library is counted, a row at a time, and growth is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from genkern.bench import instructions, main, registry
from genkern.ops._library import OPS

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(ROOT.glob("bench/results/*-instructions.json"))

PROFILE = """# callgrind format
version: 1
part: 2
positions: line
events: Ir
ob=(1) /usr/lib/libc.so.6
fl=(1) a.c
fn=(1) other
5 1000
cob=(2) /somewhere/genkern/_C.cpython-311-x86_64-linux-gnu.so
cfn=(2) genkern::run
calls=1 7
5 70000
ob=(2)
fl=(2) b.cpp
fn=(2)
7 10
+1 20
-1 3
* 4
calls=2 9
+3 5000
9 100
ob=(1)
fn=(3) another
3 9
totals: 76146
"""


def counts(**instructions_of):
    rows = {name: {"elements": 10, "instructions": n, "per_element": n / 10} for name, n in instructions_of.items()}
    return {"kind": instructions.KIND, "compiler": "g++", "level": "x86-64-v3", "rows": rows}


def test_only_what_the_library_itself_executes_is_counted():
    assert instructions.of_library(PROFILE.splitlines()) == 10 + 20 + 3 + 4 + 100


def test_growth_beyond_the_tolerance_fails_and_less_does_not():
    before = counts(same=1000, worse=1000, better=1000, gone=5)
    after = counts(same=1000, worse=1100, better=900, new=5)
    text, failed = instructions.compare(before, after, 0.02)
    assert failed and "1.100×  worse  more" in text and "0.900×  better" in text and "gone" in text
    assert not instructions.compare(before, after, 0.2)[1]
    assert not instructions.compare(before, before)[1]


def test_counts_of_other_instruction_sets_are_named():
    other = {**counts(a=1), "level": "x86-64-v4"}
    assert "different level" in instructions.compare(counts(a=1), other)[0]


def test_compare_takes_counts_like_times(tmp_path, capsys):
    for name, n in (("a", 100), ("b", 200)):
        (tmp_path / f"{name}.json").write_text(json.dumps(counts(op=n)))
    words = ["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main(words) == 0
    assert main([*words, "--fail-ratio", "1.5"]) == 1
    assert "2.000×" in capsys.readouterr().out


def test_without_valgrind_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["instructions"]) == 2
    assert "needs valgrind" in capsys.readouterr().err


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_counts_hold_every_op_with_loops_of_its_own(path):
    found = json.loads(path.read_text())
    assert found["kind"] == instructions.KIND and found["compiler"] and found["level"]
    counted = {name.split(" ")[0] for name in found["rows"]}
    files = {op.definition.__module__.split(".")[2] for op in OPS.values()}
    assert files <= counted
    assert {w.op for w in registry.workloads() if registry.is_op(w.op)} == counted
    assert all(row["instructions"] > 0 and row["elements"] > 0 for row in found["rows"].values())

"""What README and the guide tell people to type works as written."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

import pytest
from tree import ROOT, copy_tree, succeed

GUIDE, README = ROOT / "docs/adding_an_op.md", ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "text")], ids=lambda page: page.name)
def test_an_example_prints_what_it_says(page):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in blocks(page, "python"):
            exec(compile(code, str(page), "exec"), {})
    assert printed.getvalue() == "".join(blocks(page, "text"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_and_links_exist(page):
    text = page.read_text()
    for target in set(re.findall(r"\bmake (\w+)(?= |$|`)", "\n".join(blocks(page, "sh")))):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_the_guide_leads_to_an_op_that_passes_its_suite(tmp_path):
    tree = copy_tree(tmp_path / "tree")
    copy, build, prove, _ = blocks(GUIDE, "sh")
    line = blocks(GUIDE, "python")[0]
    environment = {"PYTHONPATH": str(tree), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    succeed(["bash", "-ec", copy], tree, **environment)
    registry = tree / "genkern/ops/__init__.py"
    registry.write_text(registry.read_text() + line)
    said = succeed(["bash", "-ec", build], tree, **environment)
    assert said.count("my_op") == 2, said  # its two files were compiled, and none of the other ops'
    assert said.count("csrc_ops_") == 2, said
    assert "my_op" not in succeed(["bash", "-ec", build], tree, **environment)

    for command in prove.splitlines():
        assert " passed" in succeed(["bash", "-ec", f"{command} -p no:cacheprovider"], tree, **environment)
    backends = succeed(
        [sys.executable, "-c", "import genkern; print(genkern.info()['ops']['my_op'])"], tree, **environment
    )
    assert "'backend': 'c++'" in backends

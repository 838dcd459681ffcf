"""Triton kernels on CPU tensors, in the interpreter: run as a pytest process of its own,

TRITON_INTERPRET=1 pytest tests/triton
"""

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        for item in items:
            if "tests/triton" in str(item.path):
                item.add_marker(pytest.mark.skip(reason="needs a process with TRITON_INTERPRET=1"))

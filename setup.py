"""Builds and installs genkern; `csrc/native.py` compiles the kernels, and says which environment variables it reads."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "csrc"))
import native


class BuildPython(build_py):
    """Starts from nothing, so that a module which has left the tree leaves the wheel too."""

    def run(self):
        shutil.rmtree(Path(self.build_lib, "genkern"), ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Hands the package's folder, in the tree or in the wheel, to `native`."""

    built: list[Path] = []

    def run(self):
        self.built = native.main(Path(self.get_ext_fullpath("genkern._C")).parent)

    def get_outputs(self):
        return [str(path) for path in self.built]

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return [str(path) for path in Path("csrc").rglob("*") if path.is_file()]


pure = os.environ.get("GENKERN_BUILD") == "none"
setup(
    ext_modules=[] if pure else [Extension("genkern._C", sources=[])],
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
)

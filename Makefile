# make demo   a trained flow, its pictures, and a first benchmark, from nothing but Python >= 3.10 and a C++ compiler
# make test   everything that must hold
# make gpu    the tests and benchmarks of a machine with an NVIDIA GPU and a torch of its own; installs nothing
# make peers  the libraries that `genkern bench --peers` measures beside genkern, in build/peers
# make clean  back to a fresh checkout
#
# PYTHON=python3.12 make ... chooses the interpreter, from which .venv is made.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
CUDA   := $(shell command -v nvcc || ls "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
JOBS   := $(shell nproc 2>/dev/null || echo 2)
SHELL  := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help demo test gpu peers clean build lint tests interpreter smoke op format

help:
	@sed -n '/^$$/q;s/^# \{0,1\}//p' Makefile

# -- the environment and the build -------------------------------------------------------------------------------------

$(VENV)/installed: constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else f"genkern needs Python >= 3.10; $(PYTHON) is {sys.version.split()[0]}. Type: PYTHON=python3.12 make ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. Type: apt-get install python3-venv (or your system's package of it)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt setuptools torch
	GENKERN_BUILD=none $(PIP) install --quiet --no-build-isolation --constraint constraints.txt --editable '.[triton,test]'
	@touch $@

build: $(VENV)/installed
	@$(PY) csrc/native.py

# -- make demo ---------------------------------------------------------------------------------------------------------

DEMO := runs/demo

demo: build
	$(PY) -m genkern info
	$(PY) -m genkern train glow-small --data digits --steps 1200 --out $(DEMO) --resume
	$(PY) -m genkern bench --quick
	@echo "Look at $(DEMO)/samples.png and $(DEMO)/curves.png."

# -- make test ---------------------------------------------------------------------------------------------------------

test: export GENKERN_WERROR := 1
test: export GENKERN_BUILD := $(if $(CUDA),cuda,cpu)
test: build lint tests interpreter smoke
	@echo "All tests passed."

lint: $(VENV)/installed
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs $(VENV)/bin/clang-format --dry-run -Werror

tests: build
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal --ignore tests/triton

interpreter: build  # in a process of its own: kernels become interpreted ones when they are imported
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PY) -m pytest -n $(JOBS) tests/triton

smoke: build  # the demo's job, ten seconds of it
	@rm -rf $(VENV)/smoke
	$(PY) -m genkern train glow-small --data digits --steps 20 --out $(VENV)/smoke

# -- make gpu ----------------------------------------------------------------------------------------------------------

gpu: export PYTHONPATH := .
gpu:
	@$(PYTHON) -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else f"torch {torch.__version__} of $(PYTHON) sees no GPU")'
	$(PYTHON) csrc/native.py
	$(PYTHON) -m pytest -m gpu --ignore tests/triton
	name=$$($(PYTHON) -c 'import re, torch; print(re.sub("[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()))'); \
	    $(PYTHON) -m genkern.bench --device cuda --json "bench/results/$$name-$$(date +%F).json"

# -- make peers --------------------------------------------------------------------------------------------------------

peers: build  # in a folder of their own, so that nothing of genkern's environment changes
	rm -rf build/peers
	$(PIP) install --quiet --no-deps --target build/peers --requirement bench/peers.txt

clean:
	rm -rf $(VENV) build dist *.egg-info genkern/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- for those who write genkern ---------------------------------------------------------------------------------------

# make op NAME=my_op copies docs/template_op under a new name; see docs/adding_an_op.md
op:
	@[[ "$(NAME)" =~ ^[a-z][a-z0-9_]*$$ ]] || { echo "Type: make op NAME=my_op"; exit 1; }
	@[[ ! -e genkern/ops/$(NAME) ]] || { echo "genkern/ops/$(NAME) exists already"; exit 1; }
	@cd docs/template_op && find . -name __pycache__ -prune -o -type f -print | while read -r file; do \
	    to="../../$${file//scaled_add/$(NAME)}"; mkdir -p "$$(dirname "$$to")"; \
	    sed -e 's/scaled_add/$(NAME)/g' "$$file" > "$$to"; echo "$${to#../.././}"; done

format: $(VENV)/installed
	$(PY) -m ruff format .
	find csrc docs -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs $(VENV)/bin/clang-format -i

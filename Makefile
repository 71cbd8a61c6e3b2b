# make demo · make test · make check · make bench · make wheel. The first of them sets up .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard csrc/*.cpp csrc/*.hpp)
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
BENCH_DATA ?= data/kodak
BENCH_OUT ?= bench-output

.PHONY: demo test check bench wheel clean

demo: $(CORE) # the core alone: NumPy, Pillow, safetensors
	$(BIN)/neurocodec demo -o demo-output --force

test: $(DEV)
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

bench: $(DEV)
	@if [ -d "$(BENCH_DATA)" ]; then $(BIN)/neurocodec bench rd --dataset "$(BENCH_DATA)" -o $(BENCH_OUT); \
	else echo "make bench: the folder $(BENCH_DATA) does not exist; name another with BENCH_DATA=..."; exit 1; fi

wheel: $(DEV) # dist/: an sdist, and a wheel for this machine's Python, as manylinux where auditwheel is installed
	$(BIN)/python -m build --no-isolation --outdir dist .
	@if $(BIN)/python -c 'import auditwheel' 2>/dev/null; \
	then $(BIN)/python -m auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "neurocodec needs Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(CORE): $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(DEV): $(CORE)
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info neurocodec/_native*.so

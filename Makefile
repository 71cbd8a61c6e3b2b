# make demo · make test · make check · make bench. The first of them sets up .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_DATA ?= data/kodak
BENCH_OUT ?= bench-output

.PHONY: demo test check bench clean

demo: $(READY)
	$(BIN)/neurocodec demo -o demo-output --force

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

bench: $(READY)
	@if [ -d "$(BENCH_DATA)" ]; then $(BIN)/neurocodec bench rd --dataset "$(BENCH_DATA)" -o $(BENCH_OUT); \
	else echo "make bench: the folder $(BENCH_DATA) does not exist; name another with BENCH_DATA=..."; exit 1; fi

$(READY): pyproject.toml constraints.txt setup.py $(wildcard csrc/*.cpp csrc/*.hpp)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "neurocodec needs Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build demo-output *.egg-info neurocodec/_native*.so

# make demo · make test · make check · make bench · make wheel. The first of them sets up .venv.
# For csrc/, with a C++ compiler alone: make sanitize · make fuzz · make neon-test. For web/: make web · make web-test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard csrc/*.cpp csrc/*.hpp)
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
BENCH_DATA ?= data/kodak
BENCH_OUT ?= bench-output
NATIVE := build/native
CXXFLAGS_NATIVE := -std=c++17 -Wall -Wextra -pthread -Icsrc
SANITIZERS := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all
CLANG ?= clang++
FUZZ_SECONDS ?= 600
AARCH64 ?= aarch64-linux-gnu-g++
WEB := $(VENV)/.web
# clang 22 in ziglang 0.17.1, which pyproject.toml pins: nic.wasm is the same on every machine
WASM := $(BIN)/python -m ziglang c++ -target wasm32-wasi -mcpu=generic+simd128+bulk_memory+atomics -mthread-model posix \
	-std=c++17 -O2 -Wall -Wextra -fignore-exceptions -fno-rtti -mexec-model=reactor -s \
	-Wl,-z,stack-size=1048576 -Wl,--import-memory -Wl,--shared-memory -Wl,--max-memory=1073741824 \
	-Wl,--export=__stack_pointer -Wl,--export=__wasm_init_tls -Wl,--export=__tls_size -Wl,--export=__tls_align

.PHONY: demo test check bench wheel sanitize fuzz neon-test web web-test clean

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

sanitize: # every kernel, damaged streams and damaged models, under the address and undefined-behaviour sanitizers
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/test/kernels.cpp -o $(NATIVE)/kernels-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/stream.cpp -o $(NATIVE)/stream-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/tile.cpp csrc/c_api.cpp -o $(NATIVE)/tile-sanitized
	$(NATIVE)/kernels-sanitized
	$(NATIVE)/stream-sanitized 5000
	$(NATIVE)/tile-sanitized 1000

fuzz: # libFuzzer, guided by coverage, FUZZ_SECONDS for each target; needs clang
	@mkdir -p $(NATIVE)/corpus-stream $(NATIVE)/corpus-tile
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/stream.cpp -o $(NATIVE)/fuzz-stream
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/tile.cpp csrc/c_api.cpp -o $(NATIVE)/fuzz-tile
	$(NATIVE)/fuzz-stream -max_total_time=$(FUZZ_SECONDS) -max_len=3000 $(NATIVE)/corpus-stream
	$(NATIVE)/fuzz-tile -max_total_time=$(FUZZ_SECONDS) -max_len=3000 $(NATIVE)/corpus-tile

neon-test: # NEON under emulation: Debian's g++-aarch64-linux-gnu and qemu-user
	@mkdir -p $(NATIVE)
	$(AARCH64) $(CXXFLAGS_NATIVE) -O2 -static csrc/test/kernels.cpp -o $(NATIVE)/kernels-neon
	qemu-aarch64 $(NATIVE)/kernels-neon

web: web/nic.wasm # the decoder in a page, with what it needs; then: python3 -m http.server -d web
	@mkdir -p web/weights
	cp LICENSE web/
	cp neurocodec/vectors/astronaut-q480.nic web/example.nic
	cp neurocodec/data/astronaut.png web/example.png
	$(BIN)/python -c "from neurocodec import model; m = model.load('base').decoder(); \
		m.save(f'web/weights/{m.model_id.hex()}.safetensors')"

web/nic.wasm: web/core.cpp web/runtime.cpp csrc/c_api.cpp $(wildcard csrc/*.h*) | $(WEB)
	$(WASM) web/core.cpp web/runtime.cpp -o $@
	chmod 644 $@

web-test: $(WEB) # in Node and headless Chromium, where they are installed
	$(BIN)/python -m pytest -q tests/web tests/integer/test_machines.py

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

$(WEB): $(DEV)
	$(PIP) -e '.[web]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info neurocodec/_native*.so

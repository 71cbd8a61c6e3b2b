# make demo · make test · make check · make bench · make docs · make man · make wheel. The first of them sets up .venv.
# For csrc/, with a C++ compiler alone: make sanitize · make fuzz · make neon-test · make kernel-speed · make cuda-shim.
# Also: make cuda-streams · make cuda-check. For web/: make web · make web-test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard csrc/*.cpp csrc/*.hpp csrc/cuda/*)
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
FUZZ_OPTIONS := -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1
FUZZ := $(VENV)/.fuzz
AARCH64 ?= aarch64-linux-gnu-g++
WEB := $(VENV)/.web
# clang 22 in ziglang 0.17.1, which pyproject.toml pins: nic.wasm is the same on every machine
WASM := $(BIN)/python -m ziglang c++ -target wasm32-wasi -mcpu=generic+simd128+bulk_memory+atomics -mthread-model posix \
	-std=c++17 -O2 -mllvm -unroll-runtime=false -mllvm -inline-threshold=60 -Wall -Wextra -fignore-exceptions -fno-rtti \
	-mexec-model=reactor -s \
	-Wl,-z,stack-size=1048576 -Wl,--import-memory -Wl,--shared-memory -Wl,--max-memory=1073741824 \
	-Wl,--export=__stack_pointer -Wl,--export=__wasm_init_tls -Wl,--export=__tls_size -Wl,--export=__tls_align

# CUDA: the kernels on a CPU, and the compiler from PyPI.
CUDA_BATCHES ?= 100
CUDA_MUTATIONS ?= 5000
CUDA_SEED ?= 1
CUDA_STREAMS ?= 10000
CXXFLAGS_CUDA := -std=c++20 -Wall -Wextra -pthread -Icsrc
CUDA_SOURCES := csrc/test/cuda.cpp csrc/range_coder.hpp $(wildcard csrc/cuda/*)
NVCC_VERSION := 13.5.37
NVCC_VENV := build/nvcc-$(NVCC_VERSION)

.PHONY: demo test check bench docs man wheel sanitize fuzz fuzz-native fuzz-python neon-test kernel-speed cuda-shim cuda-streams cuda-check web web-test clean

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

docs: $(DEV) # build/site: the pages of docs/, and a reference made from the docstrings
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

man: $(DEV) # build/neurocodec.1
	@mkdir -p build
	$(BIN)/argparse-manpage --module neurocodec.cli.main --function build_parser --project-name neurocodec \
		--manual-title neurocodec --format pretty --output build/neurocodec.1

wheel: $(DEV) # dist/: an sdist, and a wheel for this machine's Python, as manylinux where auditwheel is installed
	$(BIN)/python -m build --no-isolation --outdir dist .
	@if $(BIN)/python -c 'import auditwheel' 2>/dev/null; \
	then $(BIN)/python -m auditwheel repair --wheel-dir dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; fi

sanitize: # every kernel, damaged streams and damaged models, under the address and undefined-behaviour sanitizers
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/test/kernels.cpp -o $(NATIVE)/kernels-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/stream.cpp -o $(NATIVE)/stream-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/tile.cpp csrc/c_api.cpp -o $(NATIVE)/tile-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/residual.cpp -o $(NATIVE)/residual-sanitized
	$(CXX) $(CXXFLAGS_NATIVE) $(SANITIZERS) csrc/fuzz/contexts.cpp -o $(NATIVE)/contexts-sanitized
	$(NATIVE)/kernels-sanitized
	$(NATIVE)/stream-sanitized 5000 tests/corpus/stream/*
	$(NATIVE)/tile-sanitized 1000 tests/corpus/tile/*
	$(NATIVE)/residual-sanitized 1000 tests/corpus/residual/*
	$(NATIVE)/contexts-sanitized 2000 tests/corpus/contexts/*

fuzz: fuzz-native fuzz-python # libFuzzer, guided by coverage, FUZZ_SECONDS for each of six targets

fuzz-native: # the range decoder, tiles with damaged models, the lossless layer, palettes and z; needs clang
	@mkdir -p $(NATIVE)/corpus-stream $(NATIVE)/corpus-tile $(NATIVE)/corpus-residual $(NATIVE)/corpus-contexts
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/stream.cpp -o $(NATIVE)/fuzz-stream
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/tile.cpp csrc/c_api.cpp -o $(NATIVE)/fuzz-tile
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/residual.cpp -o $(NATIVE)/fuzz-residual
	$(CLANG) $(CXXFLAGS_NATIVE) $(SANITIZERS) -fsanitize=fuzzer -DNEUROCODEC_LIBFUZZER csrc/fuzz/contexts.cpp -o $(NATIVE)/fuzz-contexts
	$(NATIVE)/fuzz-stream $(FUZZ_OPTIONS) -max_len=3000 $(NATIVE)/corpus-stream tests/corpus/stream
	$(NATIVE)/fuzz-tile $(FUZZ_OPTIONS) -max_len=3000 -len_control=0 $(NATIVE)/corpus-tile tests/corpus/tile
	$(NATIVE)/fuzz-residual $(FUZZ_OPTIONS) -max_len=3000 -len_control=0 $(NATIVE)/corpus-residual tests/corpus/residual
	$(NATIVE)/fuzz-contexts $(FUZZ_OPTIONS) -max_len=3000 -len_control=0 $(NATIVE)/corpus-contexts tests/corpus/contexts

fuzz-python: $(FUZZ) # the container and the alpha plane; atheris has wheels for CPython on Linux
	@mkdir -p build/corpus-container build/corpus-alpha
	$(BIN)/python tools/fuzz.py container $(FUZZ_OPTIONS) -max_len=2000 build/corpus-container tests/corpus/container
	$(BIN)/python tools/fuzz.py alpha $(FUZZ_OPTIONS) -max_len=2000 build/corpus-alpha tests/corpus/alpha

neon-test: # NEON under emulation: Debian's g++-aarch64-linux-gnu and qemu-user
	@mkdir -p $(NATIVE)
	$(AARCH64) $(CXXFLAGS_NATIVE) -O2 -static csrc/test/kernels.cpp -o $(NATIVE)/kernels-neon
	qemu-aarch64 $(NATIVE)/kernels-neon

kernel-speed: # multiply-adds a second of each kind of layer, beside the peak of the machine's instruction
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_NATIVE) -O3 csrc/test/speed.cpp -o $(NATIVE)/speed
	$(NATIVE)/speed

cuda-shim: $(NATIVE)/cuda-sanitized $(NATIVE)/cuda-threads # the CUDA coder on this CPU, under three sanitizers
	$(NATIVE)/cuda-sanitized $(CUDA_BATCHES) $(CUDA_MUTATIONS) $(CUDA_SEED)
	$(NATIVE)/cuda-threads 4 40

$(NATIVE)/cuda-sanitized: $(CUDA_SOURCES)
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_CUDA) $(SANITIZERS) csrc/test/cuda.cpp -o $@

$(NATIVE)/cuda-threads: $(CUDA_SOURCES)
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_CUDA) -O1 -g -fsanitize=thread -DNEUROCODEC_SHIM_THREADS csrc/test/cuda.cpp -o $@

$(NATIVE)/libcuda-shim.so: $(CUDA_SOURCES)
	@mkdir -p $(NATIVE)
	$(CXX) $(CXXFLAGS_CUDA) -O2 -fPIC -shared csrc/cuda/c_api.cpp -x c++ csrc/cuda/range_coder.cu -o $@

cuda-streams: $(DEV) $(NATIVE)/libcuda-shim.so # random streams of every layout: NumPy, C++ and the CUDA coder on this CPU
	$(BIN)/python tools/compare_coders.py --library $(NATIVE)/libcuda-shim.so --streams $(CUDA_STREAMS)

cuda-check: $(NVCC_VENV)/bin/python # compiles the CUDA coder; registers, occupancy, and an estimate of its speed
	$(NVCC_VENV)/bin/python tools/cuda_report.py -o build/cuda

$(NVCC_VENV)/bin/python:
	$(PYTHON) -m venv $(NVCC_VENV)
	$@ -m pip install --quiet --disable-pip-version-check nvidia-cuda-nvcc==$(NVCC_VERSION) nvidia-nvvm==$(NVCC_VERSION) \
		nvidia-cuda-crt==$(NVCC_VERSION) nvidia-cuda-runtime==$(NVCC_VERSION) nvidia-cuda-cuobjdump==$(NVCC_VERSION) \
		nvidia-cuda-nvdisasm==$(NVCC_VERSION)

web: web/nic.wasm # the decoder in a page, with what it needs; then: python3 -m http.server -d web
	@mkdir -p web/weights
	cp LICENSE web/
	cp neurocodec/vectors/astronaut-q480.nic web/example.nic
	cp neurocodec/data/astronaut.png web/example.png
	cp neurocodec/bench/templates/slider.js web/
	$(BIN)/python -c "from neurocodec import model; m = model.load('base').decoder(); i = m.model_id.hex(); \
		m.save(f'web/weights/{i}.safetensors'); model.find_generator(m).save(f'web/weights/{i}-realism.safetensors')"

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

$(FUZZ): $(DEV)
	$(PIP) -e '.[fuzz]'
	touch $@

$(WEB): $(DEV)
	$(PIP) -e '.[web]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo-output *.egg-info neurocodec/_native*.so

#!/usr/bin/env bash
# For a machine with a GPU: builds the CUDA coder, runs all its tests, compute-sanitizer, and the benchmark. 8 minutes.
#
#     tools/gpu_check.sh [OUT]        OUT: a folder for logs and gpu.json (gpu-check)
#
# Needs nvcc and a CUDA build of torch, and the development packages of neurocodec. PYTHON and NVCC name others.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-gpu-check}")
python=${PYTHON:-python3}
nvcc=${NVCC:-$(command -v nvcc || echo "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc")}
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
export PYTHONPATH=$PWD NEUROCODEC_CUDA=require CUDA_HOME=$(dirname "$(dirname "$nvcc")")
limit=470 # seconds in all
mkdir -p "$out"
failed=0

# step NAME SECONDS COMMAND...: one that fails, or takes longer, does not stop the others
step() {
  local name=$1 seconds=$2 left=$((limit - SECONDS)) began=$SECONDS status=0
  shift 2
  if ((left <= 0)); then
    echo "$name: skipped, the time is up"
    failed=1
    return
  fi
  timeout "$((seconds < left ? seconds : left))" "$@" >"$out/$name.log" 2>&1 || status=$?
  echo "$name: status $status, $((SECONDS - began)) s: $(tail -n 1 "$out/$name.log" | cut -c 1-160)"
  ((status == 0)) || failed=1
}

native() { "$nvcc" -std=c++17 -O3 -arch=native -Icsrc -x cu csrc/test/cuda.cpp -o "$out/cuda-test"; }
export -f native
export nvcc out

step device 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
step build 120 "$python" setup.py -q build_ext --inplace
step compile 90 bash -c native
step native 40 "$out/cuda-test" 500 20000
if [[ -x $sanitizer ]]; then
  for tool in memcheck racecheck synccheck; do
    step "$tool" 40 "$sanitizer" --tool "$tool" --error-exitcode 1 "$out/cuda-test" 4 40
  done
else
  echo "compute-sanitizer: not installed, skipped"
  failed=1
fi
step streams 90 "$python" tools/compare_coders.py --streams 2000
step tests 90 "$python" -m pytest -q tests/entropy/test_cuda.py tests/test_torch.py tests/test_conformance.py
step bench 150 "$python" tools/gpu_bench.py --seconds 110 -o "$out/gpu.json"
echo "$SECONDS s, $([[ $failed == 0 ]] && echo "all steps passed" || echo "not all steps passed"): $out"
exit "$failed"

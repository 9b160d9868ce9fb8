#!/usr/bin/env bash
# Builds the GPU tests into build/gpu, runs them and prints a table. Fails when one of them does; where there is no GPU,
# all are skipped. Wants nvcc, CMake, GoogleTest, nlohmann-json, Gloo's headers (libgloo-dev; CMAKE_PREFIX_PATH where
# they lie elsewhere) and a LibTorch 2.11 ... 2.15 with CUDA: TORCH_DIR, else .venv's, else python3's. No network.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$PWD/build/gpu
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi
PATH=$PATH:/usr/local/cuda/bin

missing=()
for tool in cmake c++ nvcc; do command -v "$tool" >/dev/null || missing+=("$tool"); done
venv=(.venv/lib/python3*/site-packages/torch)
if [ -z "${TORCH_DIR:-}" ] && [ -d "${venv[0]}" ]; then TORCH_DIR=$PWD/${venv[0]}; fi
if [ -z "${TORCH_DIR:-}" ]; then
  TORCH_DIR=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))' 2>/dev/null) || TORCH_DIR=
fi
if [ -z "$TORCH_DIR" ]; then
  missing+=("LibTorch (set TORCH_DIR to a folder with include/ and lib/)")
elif [ ! -e "$TORCH_DIR/lib/libtorch_cuda.so" ]; then
  missing+=("$TORCH_DIR/lib/libtorch_cuda.so (a LibTorch with CUDA)")
fi
if [ ${#missing[@]} -gt 0 ]; then
  printf 'missing: %s\n' "${missing[@]}" >&2
  exit 1
fi

if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ] && command -v nvidia-smi >/dev/null; then  # only what this machine has
  TORCH_CUDA_ARCH_LIST=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -u | paste -sd ';') ||
    TORCH_CUDA_ARCH_LIST=
  if [ -n "$TORCH_CUDA_ARCH_LIST" ]; then export TORCH_CUDA_ARCH_LIST; else unset TORCH_CUDA_ARCH_LIST; fi
fi

generator=()
if command -v ninja >/dev/null && [ ! -e "$build/Makefile" ]; then generator=(-G Ninja); fi
cmake -S tests/gpu -B "$build" "${generator[@]}" -DTORCH_DIR="$TORCH_DIR"
cmake --build "$build" --target gpu_test -j "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}"

table=$build/table.tsv
printf 'test\tresult\tseconds\tfigures\n' >"$table"
failed=0
TUNE_GPU_TABLE=$table ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error || failed=1
# a crash leaves no line
ctest --test-dir "$build" -L gpu -N | sed -n 's/^ *Test *#[0-9]*: //p' | while read -r name; do
  cut -f 1 "$table" | grep -qxF "$name" || printf '%s\tfailed\t\tended without a result\n' "$name" >>"$table"
done
awk -F '\t' 'NR == FNR { if (length($1) > width) width = length($1); next }
             { printf "%-*s  %-7s  %7s  %s\n", width, $1, $2, $3, $4 }' "$table" "$table"
exit "$failed"

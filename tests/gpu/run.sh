#!/usr/bin/env bash
# Builds the GPU tests into build/gpu, runs them and prints a table. Fails when one of them does; where there is no GPU, all
# are skipped. Wants nvcc, CMake, GoogleTest, nlohmann-json (CMAKE_PREFIX_PATH where they lie elsewhere) and a LibTorch
# 2.11 ... 2.15: TORCH_DIR, else .venv's, else python3's.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=$PWD/build/gpu

venv=(.venv/lib/python3*/site-packages/torch)
if [ -z "${TORCH_DIR:-}" ] && [ -d "${venv[0]}" ]; then TORCH_DIR=$PWD/${venv[0]}; fi
: "${TORCH_DIR:=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')}"
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi
if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ] && command -v nvidia-smi >/dev/null; then  # only what this machine has
  TORCH_CUDA_ARCH_LIST=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -u | paste -sd ';') || true
  [ -z "$TORCH_CUDA_ARCH_LIST" ] || export TORCH_CUDA_ARCH_LIST
fi

generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
cmake -S tests/gpu -B "$build" "${generator[@]}" -DTORCH_DIR="$TORCH_DIR"
cmake --build "$build" -j "$(nproc)"

table=$build/table.tsv
printf 'test\tresult\tfigures\n' >"$table"
failed=0
TUNE_GPU_TABLE=$table ctest --test-dir "$build" -L gpu --output-on-failure --no-tests=error || failed=1
awk -F '\t' '{ test[NR] = $1; result[NR] = $2; figures[NR] = $3; if (length($1) > width) width = length($1) }
             END { for (i = 1; i <= NR; ++i) printf "%-*s  %-7s  %s\n", width, test[i], result[i], figures[i] }' "$table"
exit "$failed"

#!/usr/bin/env bash
# Layout and lint of all C++ and CUDA files; prints what fails and ends with 1.
#   ./tools/lint.sh                both
#   ./tools/lint.sh format         clang-format only: a second
#   ./tools/lint.sh tidy [REGEX]   clang-tidy only, of the sources whose path matches: minutes for all of them
# clang-format and clang-tidy are those of .venv (tests/requirements.txt), else the system's, 14 or later.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
what=${1:-both} only=${2:-.}
rooms=(recipes checkpoints data train tools tests)
failed=0

if [ "$what" != tidy ]; then
  find "${rooms[@]}" -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' |
    xargs clang-format --dry-run -Werror || failed=1
fi

if [ "$what" != format ]; then
  # The tidy preset's compile commands: without CUDA and without GCC's precompiled headers.
  cmake --preset tidy -DTORCH_DIR="${TORCH_DIR:-}" -DCMAKE_MAKE_PROGRAM="$(command -v ninja)" >/dev/null
  cmake --build build/tidy --target tune_revision_header >/dev/null
  find "${rooms[@]}" -name '*.cpp' | grep -vE '^tests/gpu/|(_cuda|/nccl)\.cpp$' | grep -E "$only" |
    xargs -P "$(nproc)" -n 2 clang-tidy -p build/tidy --quiet 2>/dev/null || failed=1
fi

[ "$failed" -eq 0 ] || echo "lint.sh: not clean" >&2
exit "$failed"

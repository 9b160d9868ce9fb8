#!/usr/bin/env bash
# Installs, builds, then runs every test. Arguments go to ctest: ./tools/test.sh -L fast
# GPU code is compiled and linked where nvcc is found; build.sh says whether it was.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "test.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
# A build that is only tested has code for the oldest and the newest cards; build.sh's own is for those between as well.
[ -z "${CI:-}" ] || export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-7.5 9.0+PTX}
TUNE_TEST_REQUIREMENTS=tests/requirements.txt TUNE_TEST_PACKAGES="slurm-wlm munge iproute2" ./tools/build.sh
./tools/fetch-quickstart.sh
if [ -n "${CI:-}" ] && ! grep -q 'NVCC:FILEPATH=/' build/CMakeCache.txt; then
  echo "test.sh: no nvcc here: nothing of CUDA was compiled, GPU code is NOT proved by this run" >&2
fi
# a judge holds up to 6 GB: PyTorch, a peer, and the program
jobs=$(( $(awk '/MemAvailable/ {print int($2 / 6000000)}' /proc/meminfo) ))
[ "$jobs" -lt "$(nproc)" ] || jobs=$(nproc)
status=0
.venv/bin/ctest --test-dir build -j "$(( jobs > 0 ? jobs : 1 ))" --output-on-failure --no-tests=error "$@" || status=$?
grep -h '^SKIPPED ' build/Testing/Temporary/LastTest.log | sort -u || true  # what was not judged, and why
exit $status

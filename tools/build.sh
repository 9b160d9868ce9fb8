#!/usr/bin/env bash
# Installs what is missing, then configures and builds the program: build/tune. Safe to run again: what is there stays.
#   TORCH_DIR=/path/to/libtorch   another LibTorch (2.11 ... 2.15) than the one of PyPI's torch wheel
#   TUNE_CUDA=OFF                 no CUDA even where nvcc is found
#   TUNE_TESTS=OFF                the program only
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "build.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR

packages=(g++ pkg-config python3-venv ccache libsentencepiece-dev libyaml-cpp-dev libfmt-dev nlohmann-json3-dev
  libsimdjson-dev libboost-program-options-dev libpcre2-dev libxxhash-dev libzstd-dev zlib1g-dev libgloo-dev libgtest-dev
  libgmock-dev)
read -ra more <<<"${TUNE_TEST_PACKAGES:-}"
packages+=("${more[@]}")
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing: ${missing[*]}"
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q >/dev/null
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi

# install FILE...: requirement files into .venv, unless exactly these were installed before
install() {
  local stamp
  stamp=".venv/installed-$(cat "$@" | sha256sum | cut -c1-16)"
  [ -e "$stamp" ] && return
  echo "installing into .venv: $*"
  local arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  .venv/bin/python -m pip install -q --disable-pip-version-check "${arguments[@]}"
  touch "$stamp"
}
[ -x .venv/bin/python ] || python3 -m venv .venv
install tools/requirements.txt
[ -n "${TORCH_DIR:-}" ] || install tools/requirements-torch.txt
[ -z "${TUNE_TEST_REQUIREMENTS:-}" ] || install "$TUNE_TEST_REQUIREMENTS"

.venv/bin/cmake --preset default -DTORCH_DIR="${TORCH_DIR:-}" -DTUNE_CUDA="${TUNE_CUDA:-AUTO}" -DTUNE_TESTS="${TUNE_TESTS:-ON}" \
  -DCMAKE_MAKE_PROGRAM="$PWD/.venv/bin/ninja" >build-configure.log || { cat build-configure.log >&2; exit 1; }
grep -E '^-- (LibTorch|CUDA)[: ]' build-configure.log | cut -c 4-
rm -f build-configure.log
# a compiler that reads LibTorch's headers takes about 2 GB
jobs=$(( $(awk '/MemAvailable/ {print int($2 / 2000000)}' /proc/meminfo) ))
[ "$jobs" -lt "$(nproc)" ] || jobs=$(nproc)
.venv/bin/cmake --build build -j "$(( jobs > 0 ? jobs : 1 ))"
echo "built: build/tune"

#!/usr/bin/env bash
# Installs, builds, then runs every test. Arguments go to ctest: ./tools/test.sh -L fast
set -euo pipefail
cd "$(dirname "$0")/.."
TUNE_TEST_REQUIREMENTS=tests/requirements.txt ./tools/build.sh
./tools/fetch-quickstart.sh
exec .venv/bin/ctest --test-dir build --output-on-failure --no-tests=error "$@"

#!/usr/bin/env bash
# Speed, memory and start-up beside PyTorch + PEFT, interleaved. Arguments go to tests/bench/bench.py: --rounds 5 --only lora-bf16
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "bench.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
TUNE_TEST_REQUIREMENTS=tests/requirements.txt ./tools/build.sh
exec .venv/bin/python tests/bench/bench.py "$@"

#!/usr/bin/env bash
# Speed, memory and start-up beside PyTorch + PEFT, interleaved. Arguments go to tests/bench/bench.py: --rounds 5 --only lora-bf16
set -euo pipefail
cd "$(dirname "$0")/.."
TUNE_TEST_REQUIREMENTS=tests/requirements.txt ./tools/build.sh
exec .venv/bin/python tests/bench/bench.py "$@"

#!/usr/bin/env bash
# Speed, memory and start-up beside PyTorch + PEFT, interleaved: tools/bench.sh [--rounds 5] [--only lora-bf16]
# Two ranks beside one, and the bytes on the wire: tools/bench.sh ranks [--rounds 5] [--only full-fp32]
# Two ranks beside what tools/scaling predicts of them: tools/bench.sh scaling
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "bench.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
TUNE_TEST_REQUIREMENTS=tests/requirements.txt ./tools/build.sh
bench=bench
if [ "${1:-}" = ranks ] || [ "${1:-}" = scaling ]; then bench=$1 && shift; fi
exec .venv/bin/python "tests/bench/$bench.py" "$@"

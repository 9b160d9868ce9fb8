#!/usr/bin/env bash
# Speed, memory and start-up beside PyTorch + PEFT, interleaved: tools/bench.sh [--rounds 5] [--only lora-bf16]
# Two ranks beside one, and the bytes on the wire: tools/bench.sh ranks [--rounds 5] [--only full-fp32]
# Two ranks beside what tools/scaling predicts of them: tools/bench.sh scaling
# QLoRA beside LoRA, full fine-tuning in less memory beside AdamW: tools/bench.sh methods
# DPO beside TRL: tools/bench.sh dpo
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "bench.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
TUNE_TEST_REQUIREMENTS=tests/requirements.txt ./tools/build.sh
bench=bench
case "${1:-}" in ranks | scaling | methods | dpo) bench=$1 && shift ;; esac
exec .venv/bin/python "tests/bench/$bench.py" "$@"

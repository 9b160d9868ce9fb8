#!/usr/bin/env bash
# tools/test.sh with what it leaves out to stay short: fifty steps of every shape of model (judge_training).
set -Eeuo pipefail
export TUNE_TEST_LONG=1
exec "$(dirname "$0")/test.sh" "$@"

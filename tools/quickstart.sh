#!/usr/bin/env bash
# From nothing to a tuned model: installs, builds, then tunes SmolLM2-135M-Instruct on a building firm's customer
# questions. Arguments go to `tune run`: ./tools/quickstart.sh --set train.num_train_epochs=1
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "quickstart.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
./tools/build.sh
./tools/fetch-quickstart.sh
TUNE_QUICKSTART="$PWD/build/quickstart" ./build/tune run --recipe recipes/quickstart.yaml --resume never "$@"
cat <<'END'

Where to look next:
  export TUNE_QUICKSTART=$PWD/build/quickstart
  ./build/tune data show --recipe quickstart --rows 2
  ./build/tune generate --model build/quickstart/SmolLM2-135M-Instruct.Q4_1.gguf --adapter runs/quickstart/final \
      --prompt "How long does a new roof last?" --compare
  docs/quickstart.md    what happened, and the same with your own rows
END

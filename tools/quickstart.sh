#!/usr/bin/env bash
# From nothing to a tuned model: installs, builds, then tunes SmolLM2-135M-Instruct on a building firm's customer
# questions. Arguments go to `tune run`: ./tools/quickstart.sh --set train.num_train_epochs=1
set -euo pipefail
cd "$(dirname "$0")/.."
./tools/build.sh
./tools/fetch-quickstart.sh
TUNE_QUICKSTART="$PWD/build/quickstart" ./build/tune run --recipe recipes/quickstart.yaml --resume never "$@"
cat <<'END'

Where to look next:
  ./build/tune generate --run runs/quickstart --prompt "How long does a new roof last?"
  ./build/tune inspect runs/quickstart/export/model-q8_0.gguf
  ./build/tune data show --recipe recipes/quickstart.yaml      (with TUNE_QUICKSTART=build/quickstart)
  docs/quickstart.md    what happened, line by line, and the same with your own rows
END

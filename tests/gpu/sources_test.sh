#!/usr/bin/env bash
# sources_test.sh MAP LIST: every file of the rooms that the linker took for gpu_test (MAP, its own account) stands in
# LIST, from which run.sh's project is built where the rest of the rooms can't be.
set -euo pipefail
missing=0
for member in $(sed -n 's/^[^ ]*libtune_[a-z]*\.a(\(.*\)\.o).*/\1/p' "$1" | sort -u); do
  grep -qE "(^|/)$member\$" "$2" || { echo "tests/gpu/sources.cmake lacks $member"; missing=1; }
done
exit $missing

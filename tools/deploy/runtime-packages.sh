#!/usr/bin/env bash
# runtime-packages.sh PREFIX: the Debian or Ubuntu packages, one a line, that a tune installed in PREFIX needs besides.
# Asked where it was built, so that an image gets the very libraries that the program was linked with.
set -euo pipefail
unset LD_LIBRARY_PATH  # NVIDIA's images put their toolkit before the program's own libraries with it
prefix=$(realpath "$1")
declare -A loaded=() packages=()

look_at() {
  local libraries
  libraries=$(ldd "$1")
  if grep 'not found' <<<"$libraries" | grep -v 'lib\(cuda\|nvidia-ml\)\.so' >&2; then  # the driver's belong to the host
    echo "runtime-packages.sh: $1 cannot be loaded here" >&2
    return 1
  fi
  while read -r library; do loaded[$library]=1; done \
    < <(awk '$2 == "=>" && $3 ~ /^\// {print $3}' <<<"$libraries" | xargs -r realpath -s)
}
look_at "$prefix/bin/tune"
# what no list of needed libraries has: opened by name
while read -r file; do
  [ -n "${loaded[$file]:-}" ] || look_at "$file"
done < <(find "$prefix/lib" -name '*.so*')

for library in "${!loaded[@]}"; do
  [ "${library#"$prefix"/}" = "$library" ] || continue
  for path in "$library" "/usr$library" "${library#/usr}"; do  # /lib is /usr/lib, and a package may say either
    owner=$(dpkg-query -S "$path" 2>/dev/null | grep -v '^diversion by' | head -n 1 | sed 's/[:,].*//') || true
    [ -z "$owner" ] || break
  done
  if [ -z "$owner" ]; then
    echo "runtime-packages.sh: $library is of no package and not in $prefix" >&2
    exit 1
  fi
  packages[$owner]=1
done
printf '%s\n' "${!packages[@]}" | sort

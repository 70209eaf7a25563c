#!/usr/bin/env bash
# Checks that C++ and CUDA sources are formatted as .clang-format says. Another major version of clang-format breaks
# lines elsewhere, so it is not used: the check then ends with 77 and says that it was skipped.
#
#   check_format.sh [ROOT]        to format: clang-format-14 -i FILES
set -euo pipefail

root="${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
readonly wanted=14
formatter=
for candidate in "clang-format-$wanted" clang-format; do
  if command -v "$candidate" >/dev/null && "$candidate" --version | grep -q "version $wanted\."; then
    formatter="$candidate"
    break
  fi
done
if [[ -z "$formatter" ]]; then
  echo "formatting: SKIPPED, nothing was checked: there is no clang-format $wanted (apt: clang-format-$wanted)"
  exit 77
fi

cd "$root"
mapfile -d '' files < <(find . \( -path './build*' -o -path './.*' -o -path ./qdiff-report \) -prune -o \
  -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z)
if [[ ${#files[@]} -eq 0 ]]; then
  echo "formatting: no sources found in $root, so nothing was checked"
  exit 1
fi
# One line a file: the first place that differs.
if ! complaints="$("$formatter" --dry-run --Werror "${files[@]}" 2>&1)"; then
  grep 'error:' <<<"$complaints" | sort -t : -u -k 1,1
  echo "formatting: these of ${#files[@]} files differ; run $formatter -i on them"
  exit 1
fi
echo "formatting: ${#files[@]} files checked, all right"

#!/usr/bin/env bash
# Runs shellcheck over every shell script of the tree; ends with 77 where shellcheck is not installed.
#
#   check_shell.sh [ROOT]
set -euo pipefail

root="${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
if ! command -v shellcheck >/dev/null; then
  echo "shell scripts: SKIPPED, nothing was checked: there is no shellcheck (apt: shellcheck)"
  exit 77
fi
cd "$root"
scripts=()
for file in scripts/*.sh scripts/*/*.sh .ci/run; do
  [[ ! -f "$file" ]] || scripts+=("$file")
done
if [[ ${#scripts[@]} -eq 0 ]]; then
  echo "shell scripts: none found in $root, so nothing was checked"
  exit 1
fi
shellcheck --external-sources "${scripts[@]}"
echo "shell scripts: ${#scripts[@]} checked, all right"

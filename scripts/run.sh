#!/usr/bin/env bash
# Installs what is missing, builds qdiff, and runs it.
#
#   scripts/run.sh                  the main job: `qdiff run`, the embedded suite
#   scripts/run.sh ARGUMENTS…       `qdiff ARGUMENTS…`, from the folder you are in; its exit status is passed on
#   scripts/run.sh --help           what qdiff can do; nothing is installed or built for it
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [[ "${1:-}" == --help || "${1:-}" == -h || "${2:-}" == --help || "${2:-}" == -h ]]; then
  if [[ -x "$root/build/default/qdiff" ]]; then exec "$root/build/default/qdiff" "$@"; fi
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
  printf '\nqdiff is not built yet; the first run does that. All options: docs/trace-format.md, section 4.\n'
  exit 0
fi

# shellcheck source=scripts/build.sh
source "$root/scripts/build.sh"

started_in="$PWD"
setup
build_preset default qdiff
cd "$started_in"
[[ $# -gt 0 ]] || set -- run
exec "$QDIFF_ROOT/build/default/qdiff" "$@"

#!/usr/bin/env bash
# Installs what is missing, builds qdiff, and runs it.
#
#   scripts/run.sh                  the main job: `qdiff run`, the embedded suite
#   scripts/run.sh ARGUMENTS…       `qdiff ARGUMENTS…`, from the folder you are in; its exit status is passed on
set -euo pipefail
# shellcheck source=scripts/build.sh
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"

started_in="$PWD"
setup
build_preset default qdiff
cd "$started_in"
[[ $# -gt 0 ]] || set -- run
exec "$QDIFF_ROOT/build/default/qdiff" "$@"

#!/usr/bin/env bash
# Installs what is missing, builds qdiff with its tests, and runs them. ctest's summary is the last thing printed.
#
#   scripts/test.sh [--ci | --asan] [--slow] [ctest's arguments…]
#     --ci      preset `ci`: warnings are errors
#     --asan    preset `asan`: everything but the LibTorch reference, under AddressSanitizer and UBSan
#     --slow    also the tests labelled `slow` (minutes each)
#   For one test: scripts/test.sh -R 'part of its name'
set -euo pipefail
# shellcheck source=scripts/build.sh
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"

preset=default
selection=(--label-exclude '^slow$')
while [[ $# -gt 0 ]]; do
  case "$1" in
    --ci | --asan) preset="${1#--}" ;;
    --slow) selection=() ;;
    --help)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    *) break ;;
  esac
  shift
done
setup
build_preset "$preset"
exec ctest --preset "$preset" --parallel "$(nproc)" "${selection[@]}" "$@" </dev/null

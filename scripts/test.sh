#!/usr/bin/env bash
# Installs what is missing, builds qdiff with its tests, and runs them. ctest's summary is the last thing printed.
#
#   scripts/test.sh [--ci | --asan | --tsan] [--slow] [ctest's arguments…]
#     --ci      preset `ci`: warnings are errors
#     --asan    preset `asan`: everything but the LibTorch reference, under AddressSanitizer and UBSan
#     --tsan    preset `tsan`: the tests of label `threads` under ThreadSanitizer
#     --slow    also the tests labelled `slow` (minutes each)
#   For one test: scripts/test.sh -R 'part of its name'
set -euo pipefail
# shellcheck source=scripts/build.sh
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"

arguments=("$@")
preset=default
selection=(--label-exclude '^slow$')
while [[ $# -gt 0 ]]; do
  case "$1" in
    --ci | --asan | --tsan) preset="${1#--}" ;;
    --slow) selection=() ;;
    --help)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    *) break ;;
  esac
  shift
done
# ThreadSanitizer of g++ 12 and 13 refuses to start where the kernel spreads addresses further than it knows of
# (vm.mmap_rnd_bits above 28), so neither the tests nor the build, which lists them, may have their addresses spread.
if [[ "$preset" == tsan && -z "${QDIFF_ADDRESSES_FIXED:-}" ]] && setarch --addr-no-randomize true 2>/dev/null; then
  QDIFF_ADDRESSES_FIXED=yes exec setarch --addr-no-randomize "$0" "${arguments[@]}"
fi
target=all
[[ "$preset" != tsan ]] || target=qdiff_thread_tests
setup
build_preset "$preset" "$target"
exec ctest --preset "$preset" --parallel "$(nproc)" "${selection[@]}" "$@" </dev/null

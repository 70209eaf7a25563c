#!/usr/bin/env bash
# Prints how many lines of each room the room's own tests run, by gcov and gcovr. Tests of other rooms do not count: a
# mistake is told best by the test that stands beside it. Rooms that need LibTorch are left out.
#
#   scripts/coverage.sh [--least PERCENT] [--files] [ROOM…]
#     --least N   ends with 1 where a room stays below N percent
#     --files     also prints each file, with the lines that no test runs
#     ROOM        a folder that has tests, such as harness/diagnose (default: all of them)
set -euo pipefail
# shellcheck source=scripts/build.sh
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"

least=0
files=
rooms=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --least)
      [[ "${2:-}" =~ ^[0-9]+([.][0-9]+)?$ ]] || fail "coverage.sh: --least needs a number of percent, not '${2:-}'"
      least="$2"
      shift
      ;;
    --files) files=yes ;;
    --help)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    -*) fail "coverage.sh: there is no option '$1'; see --help" ;;
    *) rooms+=("${1%/}") ;;
  esac
  shift
done
for room in "${rooms[@]}"; do
  [[ -d "$QDIFF_ROOT/$room/tests" ]] || fail "coverage.sh: $room is no folder of this tree that has tests"
done

setup --coverage
build="$QDIFF_ROOT/build/coverage"
if [[ ${#rooms[@]} -eq 0 ]]; then
  build_preset coverage
  while IFS= read -r folder; do
    room="${folder#"$build/"}"
    [[ ! -d "$QDIFF_ROOT/$room/tests" ]] || rooms+=("$room")
  done < <(find "$build" -name '*_tests' -type f -executable -printf '%h\n' | sort -u)
else
  for room in "${rooms[@]}"; do build_preset coverage "$room/all"; done
fi

# tested ROOM: runs the room's test programs and nothing else, so that what is counted afterwards is theirs.
tested() {
  local program any=
  find "$build" -name '*.gcda' -delete
  for program in "$build/$1"/*_tests; do
    [[ -x "$program" ]] || continue
    any=yes
    (cd "$QDIFF_ROOT" && "$program") >"$build/tests.log" 2>&1 </dev/null || {
      tail -n 40 "$build/tests.log" >&2
      fail "coverage.sh: ${program##*/} failed (its last lines are above)"
    }
  done
  [[ -n "$any" ]] || fail "coverage.sh: $1 has no test program that builds without LibTorch"
}

status=0
printf '%-24s %7s %9s\n' room lines covered
for room in "${rooms[@]}"; do
  tested "$room"
  report=(gcovr --root "$QDIFF_ROOT" --filter "$QDIFF_ROOT/$room/" --exclude '.*/tests/' "$build/$room")
  "${report[@]}" --json-summary "$build/summary.json"
  "$QDIFF_PYTHON" - "$room" "$least" "$build/summary.json" <<'PYTHON' || status=1
import json, sys
room, least, summary = sys.argv[1:]
with open(summary, encoding="utf-8") as file:
    found = json.load(file)
print(f"{room:24} {found['line_total']:7} {found['line_percent']:7.1f} %")
# Written so that a room without a single line fails as well.
sys.exit(0 if found["line_total"] > 0 and found["line_percent"] >= float(least) else 1)
PYTHON
  [[ -z "$files" ]] || "${report[@]}"
done
[[ $status -eq 0 ]] || echo "below $least %: tests are missing" >&2
exit $status

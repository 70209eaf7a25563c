#!/usr/bin/env bash
# Asks whether a room's tests notice mistakes in the room's code: universalmutator changes one place at a time, and each
# changed program runs the room's own tests. What no test notices is printed; docs/mutants.md says what to do with it.
#
#   scripts/mutation.sh [--room ROOM] [--sample N] [--seed S] [--least PERCENT] [--jobs N] [--preset PRESET]
#                       [--changes FILE] [--survivors FILE]
#     --room ROOM        compare: the judge (default); explain: the mechanisms and their search; noise: the reference's
#                        expected rounding
#     --sample N         judge N changes, drawn with the seed (default 200; 0: all, which takes a day)
#     --seed S           default 1
#     --least PERCENT    end with 1 where fewer are noticed
#     --jobs N           changes at a time (default: one a processor)
#     --preset PRESET    the build whose tests are used (default: default)
#     --changes FILE     judge these changes instead: one JSON object a line with file, old and new
#     --survivors FILE   also write what survived there
# A change that does not compile, or that compiles to the same machine code, is left out and replaced by the next. The tree
# is never written to. Two to three seconds of processor a change; Ctrl-C shows what was judged so far. 77: the tool could not
# be installed.
set -euo pipefail
# shellcheck source=scripts/build.sh
source "$(dirname "${BASH_SOURCE[0]}")/build.sh"

room=compare
preset=default
arguments=()
sample=200
jobs="$(nproc)"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --help)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    --room | --sample | --seed | --least | --jobs | --preset | --changes | --survivors)
      [[ $# -ge 2 ]] || fail "mutation.sh: $1 needs a value; see --help"
      case "$1" in
        --room) room="$2" ;;
        --preset) preset="$2" ;;
        --sample) sample="$2" ;;
        --jobs) jobs="$2" ;;
        *) arguments+=("$1" "$2") ;;
      esac
      shift
      ;;
    *) fail "mutation.sh: there is no option '$1'; see --help" ;;
  esac
  shift
done
case "$room" in
  compare) target=compare_tests ;;
  explain) target=explain_tests ;;
  noise) target=reference_tests ;;
  *) fail "mutation.sh: there is no room '$room'; there are compare, explain and noise" ;;
esac

# Installs the pinned tool into a virtual environment of its own, unless it is there. Its file `complete` is written last.
tool_folder() {
  local pins="$QDIFF_ROOT/scripts/universalmutator.txt" sum environment python
  sum="$(sha256sum <"$pins" | cut -d ' ' -f 1)"
  environment="$(cache_folder)/universalmutator-$(sed -n 's/^universalmutator==\([0-9.]*\).*/\1/p' "$pins")"
  if [[ ! -f "$environment/complete" || "$(<"$environment/complete")" != "$sum" ]]; then
    [[ -z "${QDIFF_NO_INSTALL:-}" ]] || { say "universalmutator is missing, and QDIFF_NO_INSTALL is set"; return 77; }
    python="$(python_with venv ensurepip)"
    [[ -n "$python" ]] || { say "no Python here has venv, which universalmutator is installed with"; return 77; }
    rm -rf "$environment"
    mkdir -p "$(cache_folder)"
    {
      "$python" -m venv "$environment" &&
        "$environment/bin/python" -m pip install --no-deps --require-hashes --only-binary=:all: \
          --disable-pip-version-check --quiet -r "$pins"
    } >"$(cache_folder)/universalmutator.log" 2>&1 </dev/null || {
      tail -n 5 "$(cache_folder)/universalmutator.log" >&2
      say "universalmutator could not be installed"
      return 77
    }
    echo "$sum" >"$environment/complete"
  fi
  echo "$environment/bin"
}

tools="$(tool_folder)" || exit $?
setup
build_preset "$preset" "$target"
exec "$QDIFF_PYTHON" "$QDIFF_ROOT/scripts/mutation.py" --room "$room" --build "$QDIFF_ROOT/build/$preset" \
  --tool "$tools/mutate" --sample "$sample" --jobs "$jobs" "${arguments[@]}"

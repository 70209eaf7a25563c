# shellcheck shell=bash
# Sourced by run.sh and test.sh: set-up, then configure and build one preset of CMakePresets.json.
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# build_preset PRESET [TARGET]: quiet unless it fails; shows ninja's progress on a terminal. Everything goes to stderr.
build_preset() {
  local preset="$1" target="${2:-all}" log="$QDIFF_ROOT/build/$1.log" started=$SECONDS
  mkdir -p "$QDIFF_ROOT/build"
  cd "$QDIFF_ROOT"
  if ! cmake --preset "$preset" -DQDIFF_TORCH_DIR="$QDIFF_TORCH_DIR" -DQDIFF_PYTHON="$QDIFF_PYTHON" \
    >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    printf 'qdiff: configuring failed; the log is in %s\n' "$log" >&2
    exit 2
  fi
  if [[ -t 2 ]]; then
    cmake --build --preset "$preset" --target "$target" --parallel "$(nproc)" >&2 </dev/null || exit 2
  else
    printf 'qdiff: building preset %s\n' "$preset" >&2
    if ! cmake --build --preset "$preset" --target "$target" --parallel "$(nproc)" >>"$log" 2>&1 </dev/null; then
      grep -A 40 -m 1 '^FAILED' "$log" >&2 || tail -n 60 "$log" >&2
      printf 'qdiff: the build failed; the whole log is in %s\n' "$log" >&2
      exit 2
    fi
    printf 'qdiff: built in %d s\n' $((SECONDS - started)) >&2
  fi
}

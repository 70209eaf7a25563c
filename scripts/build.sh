# shellcheck shell=bash
# Sourced by run.sh and test.sh: set-up, then configure and build one preset of CMakePresets.json.
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# Says every half minute how far ninja is, from its log, until it is killed or the script ends.
tell_progress() {
  local log="$1" waited=0 step
  while kill -0 $$ 2>/dev/null; do
    sleep 1 >/dev/null 2>&1  # outlives its parent by so much, and must hold no pipe of the caller's open
    waited=$((waited + 1))
    ((waited % 30 == 0)) || continue
    step="$(grep -o '^\[[0-9]*/[0-9]*\]' "$log" | tail -n 1 || true)"
    printf 'qdiff: building, %d s, %s\n' "$waited" "${step:-starting}" >&2
  done
}

# build_preset PRESET [TARGET]: quiet unless it fails; shows ninja's progress on a terminal, and elsewhere a line every
# half minute. Everything goes to stderr.
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
    tell_progress "$log" &
    local telling=$! built=yes
    cmake --build --preset "$preset" --target "$target" --parallel "$(nproc)" >>"$log" 2>&1 </dev/null || built=no
    kill "$telling" 2>/dev/null || true
    wait "$telling" 2>/dev/null || true
    if [[ "$built" == no ]]; then
      grep -A 40 -m 1 '^FAILED' "$log" >&2 || tail -n 60 "$log" >&2
      printf 'qdiff: the build failed; the whole log is in %s\n' "$log" >&2
      exit 2
    fi
    printf 'qdiff: built in %d s\n' $((SECONDS - started)) >&2
  fi
}

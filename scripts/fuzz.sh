#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each for a number of executions, from the tree's own files as seeds. What
# an input once broke lies in fuzz/regressions/TARGET and is run first.
#
#   scripts/fuzz.sh [--runs N] [--corpus DIR] [TARGET…]
#     --runs N       executions of each target (default: 20000, a few seconds)
#     --corpus DIR   keep what is found to reach new code in DIR/TARGET, and start from it
#     TARGET         case, config, gguf, manifest, safetensors or tokenizer (default: all)
# Ends with 1 where a target finds something; the input is then in build/fuzz/findings. 77: there is no clang.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

runs=20000
corpus=
targets=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --runs | --corpus)
      [[ $# -ge 2 ]] || { echo "fuzz.sh: $1 needs a value" >&2; exit 2; }
      [[ "$1" == --runs ]] && runs="$2" || corpus="$2"
      shift
      ;;
    --help)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    case | config | gguf | manifest | safetensors | tokenizer) targets+=("$1") ;;
    *)
      echo "fuzz.sh: there is no target '$1'; see --help" >&2
      exit 2
      ;;
  esac
  shift
done
[[ ${#targets[@]} -gt 0 ]] || targets=(case config gguf manifest safetensors tokenizer)
[[ "$runs" =~ ^[1-9][0-9]*$ ]] || { echo "fuzz.sh: --runs must be a whole number, not '$runs'" >&2; exit 2; }
if ! command -v clang++ >/dev/null; then
  echo "fuzzing: SKIPPED, nothing was run: there is no clang++ (apt: clang)"
  exit 77
fi

# The files of the tree that a target reads.
seeds() {
  case "$1" in
    case) find cases -name '*.json' ! -name '*.schema.json' ;;
    config) find harness reference -name config.json -path '*/data/*' ;;
    gguf) find fuzz/seeds/gguf -type f ;;
    manifest) find harness -name manifest.json -path '*/data/*' ;;
    safetensors) find harness reference -name '*.safetensors' -path '*/data/*' -size -64k ;;
    tokenizer) find harness -name tokenizer.json -path '*/data/*' ;;
  esac
}

log=build/fuzz.log
mkdir -p build/fuzz/findings
{ cmake --preset fuzz && cmake --build --preset fuzz --target fuzz_targets --parallel "$(nproc)"; } >"$log" 2>&1 </dev/null ||
  { tail -n 60 "$log"; echo "fuzz.sh: the build failed; the whole log is in $log" >&2; exit 2; }

# Prints what it found, and ends with 1 where that is something.
fuzz() {
  local target="$1" work number=0 file folders status=0
  work="$(mktemp -d)"
  mkdir "$work/seeds"
  while IFS= read -r file; do
    cp "$file" "$work/seeds/$((number += 1))"
  done < <(seeds "$target"; find "fuzz/regressions/$target" -type f 2>/dev/null || true)
  [[ $number -gt 0 ]] || { echo "fuzz.sh: the tree has no seeds for $target" >&2; return 2; }
  folders=("$work/found" "$work/seeds")
  [[ -z "$corpus" ]] || folders[0]="$corpus/$target"
  mkdir -p "${folders[0]}"
  # A slow or greedy input is a finding as well: 5 s for at most 64 KiB, 512 MB with the sanitizers' own.
  # Who allocated what is told when a finding is run again: here it would take most of the time.
  if ASAN_OPTIONS=malloc_context_size=0:quarantine_size_mb=16 UBSAN_OPTIONS=print_stacktrace=1 "build/fuzz/fuzz/fuzz_$target" -runs="$runs" -seed=1 -max_len=65536 -timeout=5 \
    -rss_limit_mb=512 -malloc_limit_mb=256 -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$target-" \
    "${folders[@]}" >"$work/log" 2>&1; then
    printf 'fuzz %-12s %s\n' "$target" "$(sed -n 's/^#[0-9]*.*DONE *//p' "$work/log" | tail -n 1), $runs runs"
  else
    status=1
    tail -n 40 "$work/log"
    echo "fuzz.sh: $target has found something; its input is in build/fuzz/findings"
  fi
  rm -rf "$work"
  return "$status"
}

# As many at a time as there are processors.
status=0
running=0
for target in "${targets[@]}"; do
  if [[ $running -ge $(nproc) ]]; then
    wait -n || status=$?
    running=$((running - 1))
  fi
  fuzz "$target" &
  running=$((running + 1))
done
while [[ $running -gt 0 ]]; do
  wait -n || status=$?
  running=$((running - 1))
done
exit "$status"

#!/usr/bin/env bash
# Measures the CUDA engine beside its peers on one GPU: decode and prefill at the shapes of Qwen2.5-0.5B and -7B, with
# random weights, bfloat16; and how long its judging takes. Needs an H100 or H200 (compute capability 9.0) and no network.
#
#   scripts/bench.sh [--out FILE] [--build DIR] [--models 0.5b,7b] [--contexts 0,1024,8192,32000] [--prompts 64,512,4096]
#                    [--batches 2,4,8,32,128] [--rounds 3] [--no-peers] [--no-judging]
#
# Engine and peers take turns, round after round, so that heat and clocks are alike. Prints a table: microseconds a step,
# median and spread over the rounds, % of the read bandwidth measured in the same run, tokens a second, and which part of
# each peer's time the engine takes. FILE (default build/bench.json) holds every measurement, with the cost of taps.
# Peers: transformers where Python has it and PyTorch; llama.cpp where llama-bench is on the PATH or LLAMA_BENCH names
# it, on LLAMA_MODELS/0.5b.gguf and 7b.gguf, or files of random weights that are made here. Judged is the end-to-end case,
# from the program's start to its end, where Python has PyTorch, which the reference needs. Ends with 1 where a measurement
# failed, 125 where there is no GPU.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$root/build/bench.json"
build="$root/build/gpu-bench"
models=0.5b,7b
contexts=0,1024,8192,32000
prompts=64,512,4096
batches=2,4,8,32,128
rounds=3
peers=yes
judging=yes
while [[ $# -gt 0 ]]; do
  if [[ $1 == --help ]]; then
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0"
    exit 0
  fi
  case "$1" in
    --no-peers) peers=no; shift; continue ;;
    --no-judging) judging=no; shift; continue ;;
  esac
  if [[ $# -lt 2 ]]; then
    printf 'bench: %s needs a value\n' "$1" >&2
    exit 2
  fi
  case "$1" in
    --out) out="$2" ;;
    --build) build="$2" ;;
    --models) models="$2" ;;
    --contexts) contexts="$2" ;;
    --prompts) prompts="$2" ;;
    --batches) batches="$2" ;;
    --rounds) rounds="$2" ;;
    *) printf 'bench: unknown option %s; --help lists them\n' "$1" >&2; exit 2 ;;
  esac
  shift 2
done

if ! gpu="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null)"; then
  printf 'bench: no GPU here (nvidia-smi does not answer); nothing was measured\n' >&2
  exit 125
fi
mkdir -p "$build" "$(dirname "$out")"
if [[ $judging == yes ]] && ! python3 -c 'import torch' 2>/dev/null; then
  printf 'bench: this Python has no torch, so judging is not measured\n' >&2
  judging=no
fi
reference=OFF
targets=(cuda_engine_bench)
options=()
if [[ $judging == yes ]]; then
  reference=ON
  targets+=(qdiff)
  options+=(--qdiff "$build/qdiff")
fi
if ! { cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release "-DQDIFF_REFERENCE=$reference" -DBUILD_TESTING=OFF &&
  cmake --build "$build" --target "${targets[@]}" --parallel "$(nproc)"; } >"$build/build.log" 2>&1; then
  tail -n 40 "$build/build.log" >&2
  printf 'bench: the build failed; the whole log is in %s\n' "$build/build.log" >&2
  exit 2
fi
llama=
if [[ $peers == yes ]]; then
  if python3 -c 'import torch, transformers' 2>/dev/null; then
    options+=(--transformers)
  else
    printf 'bench: this Python has no torch and transformers, so these are not measured\n' >&2
  fi
  llama="${LLAMA_BENCH:-$(command -v llama-bench || true)}"
  if [[ -z $llama ]]; then
    printf 'bench: no llama-bench on the PATH or in LLAMA_BENCH, so llama.cpp is not measured\n' >&2
  fi
fi

failed=0
lines="$build/bench.jsonl"
: >"$lines"
# measure COMMAND...: its JSON lines go into the results, whatever became of it.
measure() {
  "$@" 2>>"$build/bench.err" | grep --line-buffered '^{' >>"$lines" || {
    failed=1
    printf 'bench: failed: %s; see %s\n' "$*" "$build/bench.err" >&2
  }
}
for model in ${models//,/ }; do
  of_model=("${options[@]}")
  if [[ -n $llama ]]; then
    file="${LLAMA_MODELS:-$build}/$model.gguf"
    [[ -f $file ]] || python3 "$root/scripts/random_gguf.py" "$model" "$file"
    of_model+=(--llama-bench "$llama" --llama-model "$file")
  fi
  measure python3 "$root/scripts/bench_rounds.py" "$build/optimized/cuda/cuda_engine_bench" "$model" \
    --contexts "$contexts" --prompts "$prompts" --batches "$batches" --rounds "$rounds" "${of_model[@]}"
done

commit="$(git -C "$root" rev-parse --verify -q HEAD 2>/dev/null || echo unknown)"
python3 - "$lines" "$out" "$gpu" "$commit" <<'PYTHON'
import json, pathlib, sys
lines, out, gpu, commit = sys.argv[1:]
results = [json.loads(line) for line in pathlib.Path(lines).read_text().splitlines()]
pathlib.Path(out).write_text(json.dumps(
    {"format": "qdiff-bench", "version": 1, "commit": commit, "gpu": gpu, "results": results}, indent=1) + "\n")
if not results:
    sys.exit("bench: nothing was measured")
PYTHON
python3 "$root/scripts/bench_table.py" "$out"
printf 'bench: %s\n' "$out"
exit "$failed"

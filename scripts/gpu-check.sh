#!/usr/bin/env bash
# Builds and runs everything that needs a GPU, on a machine that has one (H100: compute capability 9.0), without network.
#
#   scripts/gpu-check.sh [--out FILE] [--build DIR]            everything, of the grid of clean runs a pairwise part
#   scripts/gpu-check.sh --full N [--out FILE] [--build DIR]   part N of 4 of what that leaves out of the grid
#
# Each takes under nine minutes from a clean tree. Ends with 0 if all passed, 1 if something failed, 125 where there is no
# GPU, or where nothing failed but a check was skipped: without PyTorch nothing is judged. FILE (default
# build/gpu-check.json) says for each check: name, status (passed, failed, skipped), seconds and the end of its output, or
# why it was skipped; and holds the benchmark's measurements and what became of the planted faults.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$root/build/gpu-check.json"
build="$root/build/gpu"
parts=4
part=
while [[ $# -gt 0 ]]; do
  if [[ $1 == --help ]]; then
    sed -n '2,/^set -uo/{/^set -uo/d;s/^# \{0,1\}//;p}' "$0"
    exit 0
  fi
  if [[ $# -lt 2 ]]; then
    printf 'gpu-check: %s needs a value\n' "$1" >&2
    exit 2
  fi
  case "$1" in
    --out) out="$2" ;;
    --build) build="$2" ;;
    --full) part="$2" ;;
    *) printf 'gpu-check: unknown option %s; --help lists them\n' "$1" >&2; exit 2 ;;
  esac
  shift 2
done
if [[ -n $part && ! $part =~ ^[1-$parts]$ ]]; then
  printf 'gpu-check: --full takes a part from 1 to %d, not "%s"\n' "$parts" "$part" >&2
  exit 2
fi
logs="$build/gpu-check"
mkdir -p "$(dirname "$out")" "$logs"
: >"$logs/results"

# [expected=STATUS] check NAME SECONDS COMMAND...: runs it with a time limit and notes whether it ended as expected.
# Several may run side by side.
check() {
  local name="$1" limit="$2" started=$SECONDS status=passed ended=0
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1 || ended=$?
  [[ $ended -eq ${expected:-0} ]] || status=failed
  printf '%s\t%s\t%d\n' "$name" "$status" $((SECONDS - started)) >>"$logs/results"
  printf 'gpu-check: %-24s %s (%d s)\n' "$name" "$status" $((SECONDS - started))
  [[ $status == passed ]] || tail -n 30 "$logs/$name.log"
}
any() { grep -q "$(printf '\t%s\t' "$1")" "$logs/results"; }

# skip REASON NAME...
skip() {
  local reason="$1" name
  shift
  for name; do
    printf '%s\n' "$reason" >"$logs/$name.log"
    printf '%s\tskipped\t0\n' "$name" >>"$logs/results"
    printf 'gpu-check: %-24s skipped: %s\n' "$name" "$reason"
  done
}

write_results() {
  python3 - "$logs" "$out" "$(git -C "$root" rev-parse --verify -q HEAD 2>/dev/null || echo unknown)" "${part:-}" <<'PYTHON'
import json, pathlib, subprocess, sys
logs, out, commit, part = pathlib.Path(sys.argv[1]), *sys.argv[2:]
checks = []
for line in (logs / "results").read_text().splitlines():
    name, status, seconds = line.split("\t")
    tail = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-12:]
    checks.append({"name": name, "status": status, "seconds": int(seconds), "tail": tail})
of_checks = {check["name"] for check in checks}
bench = []
for log in sorted(logs.glob("bench_*.log")):
    if log.stem in of_checks:
        bench += [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
planted = logs / "selftest/selftest.json"
planted = json.loads(planted.read_text())["trials"] if "selftest" in of_checks and planted.exists() else []
gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                     capture_output=True, text=True).stdout.strip()
passed = bool(checks) and all(c["status"] == "passed" for c in checks)
pathlib.Path(out).write_text(json.dumps(
    {"format": "qdiff-gpu-check", "version": 1, "commit": commit, "part": int(part) if part else None, "gpu": gpu,
     "passed": passed, "checks": checks, "planted": planted, "bench": bench}, indent=1) + "\n")
PYTHON
}

if ! nvidia-smi >"$logs/nvidia-smi.log" 2>&1; then
  printf 'gpu-check: no GPU here (nvidia-smi does not answer); nothing was checked\n' >&2
  exit 125
fi

# The judge needs the LibTorch reference, which a Python with PyTorch brings.
reference=OFF
without_torch="this Python has no PyTorch, so qdiff, which judges, was not built"
if python3 -c 'import torch' 2>/dev/null; then reference=ON; fi
targets=(cuda_engine_tests cuda_engine_bench cuda_sanitizer_controls kv_cache_layout_cuda_test)
[[ $reference == OFF ]] || targets+=(qdiff reference_gpu_tests)

side_by_side=4
beside_grid_gib=14  # for what runs beside the grid: four sanitizers, each with a context and its own records

# Clean runs of two layers of the true shapes: the engine matches. Side by side, for a run keeps a few of the processor's
# cores at work, and the GPU now and then; the next one is the longest that the memory left on the GPU has room for.
run_grid() {
  local i name gib model dtype mode cases process
  local -a waiting
  local -A held=()  # GiB by process
  local free=$(($(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1) / 1024 - beside_grid_gib))
  check grid_cases 20 python3 "$root/scripts/gpu_grid.py" "$logs/grid" "$@"
  mapfile -t waiting <"$logs/grid_cases.log"
  while [[ ${#waiting[@]} -gt 0 || ${#held[@]} -gt 0 ]]; do
    for i in "${!waiting[@]}"; do
      IFS=$'\t' read -r name gib model dtype mode cases <<<"${waiting[i]}"
      # Where nothing runs, what has no room even so is tried and fails.
      [[ ${#held[@]} -eq 0 || (${#held[@]} -lt $side_by_side && $gib -le $free) ]] || continue
      # shellcheck disable=SC2086  # several cases
      check "grid_$name" 400 "$build/qdiff" run $cases --model "$model" --dtype "$dtype" --mode "$mode" \
        --backend cuda --out "$logs/grid_$name" </dev/null &
      held[$!]=$gib
      free=$((free - gib))
      unset "waiting[i]"
      continue 2
    done
    sleep 0.2
    for process in "${!held[@]}"; do
      if kill -0 "$process" 2>/dev/null; then continue; fi
      free=$((free + held[$process]))
      unset "held[$process]"
    done
  done
}

# Small shapes: a tool slows a kernel by a factor of ten to a hundred. A tool that finds nothing must be one that would.
run_sanitizers() {
  local tool
  for tool in memcheck racecheck initcheck synccheck; do
    check "sanitizer_$tool" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" '[sanitizer]' &
  done
  wait
  for tool in memcheck racecheck initcheck synccheck; do
    expected=9 check "control_$tool" 30 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$build/optimized/cuda/cuda_sanitizer_controls" "$tool"
  done
}

run_everything() {
  local dtype
  check kv_cache_layout 60 "$build/optimized/cuda/kv_cache_layout_cuda_test"
  for dtype in bfloat16 float16 float32; do check "tensors_$dtype" 120 "$tests" "[tensors][$dtype]" & done
  check engine 60 "$tests" '[gpu]~[tensors]~[invariance]~[faults]~[races]~[sanitizer]' &
  check invariance 200 "$tests" '[invariance]' &
  check planted_in_kernels 120 "$tests" '[faults]' &
  check races 60 "$tests" '[races]' &
  wait
  if [[ $reference == ON ]]; then
    check reference_on_gpu 60 "$build/reference/reference_gpu_tests"
    for dtype in bfloat16 float16; do
      check "judged_$dtype" 60 "$build/qdiff" run --backend cuda --dtype "$dtype" --out "$logs/judged_$dtype"
    done
    # Every fault planted and judged, and 300 random clean runs.
    check selftest 180 "$build/qdiff" selftest --backend cuda --out "$logs/selftest"
    check planted_faults 5 python3 "$root/scripts/gpu_planted.py" "$logs/selftest/selftest.json"
    # The sanitizers need one core each.
    run_sanitizers &
    run_grid
    wait
  else
    skip "$without_torch" reference_on_gpu judged_bfloat16 judged_float16 selftest planted_faults grid
    run_sanitizers
  fi
  check bench_0.5b 60 "$build/optimized/cuda/cuda_engine_bench" 0.5b --contexts 0,1024 --batches 8,32 --tokens 64 --repeats 20
  check bench_7b 120 "$build/optimized/cuda/cuda_engine_bench" 7b --contexts 0,1024 --batches 8,32 --tokens 64 --repeats 20
}

[[ -z $part ]] || printf 'gpu-check: part %d of %d of the grid of clean runs\n' "$part" "$parts"
check configure 120 cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release "-DQDIFF_REFERENCE=$reference"
check build 300 cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]}"
tests="$build/optimized/cuda/cuda_engine_tests"
if ! any failed; then
  if [[ -z $part ]]; then
    run_everything
  elif [[ $reference == ON ]]; then
    run_grid --rest "$part/$parts"
  else
    skip "$without_torch" grid
  fi
fi
write_results
outcome=passed
status=0
if any failed; then
  outcome=FAILED
  status=1
elif any skipped; then
  outcome="passed but for what was skipped"
  status=125
fi
printf 'gpu-check: %s in %d s; %s\n' "$outcome" "$SECONDS" "$out"
exit "$status"

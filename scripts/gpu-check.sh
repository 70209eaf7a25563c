#!/usr/bin/env bash
# Builds and runs everything that needs a GPU, on a machine that has one (H100: compute capability 9.0), without network.
#
#   scripts/gpu-check.sh [--out FILE] [--build DIR]      a pairwise subset, under nine minutes from a clean tree
#
# Ends with 0 if all passed, 1 if something failed, 125 where there is no GPU, or where nothing failed but a check was
# skipped: without PyTorch nothing is judged. FILE (default build/gpu-check.json) says for each check: name, status
# (passed, failed, skipped), seconds and the end of its output, or why it was skipped.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$root/build/gpu-check.json"
build="$root/build/gpu"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --out) out="$2"; shift 2 ;;
    --build) build="$2"; shift 2 ;;
    *) printf 'gpu-check: unknown option %s; it takes --out FILE and --build DIR\n' "$1" >&2; exit 2 ;;
  esac
done
logs="$build/gpu-check"
mkdir -p "$(dirname "$out")" "$logs"
: >"$logs/results"
failed=0
skipped=0

# [expected=STATUS] check NAME SECONDS COMMAND...: runs it with a time limit and notes whether it ended as expected.
check() {
  local name="$1" limit="$2" started=$SECONDS status=passed ended=0
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1 || ended=$?
  if [[ $ended -ne ${expected:-0} ]]; then
    status=failed
    failed=1
  fi
  printf '%s\t%s\t%d\n' "$name" "$status" $((SECONDS - started)) >>"$logs/results"
  printf 'gpu-check: %-24s %s (%d s)\n' "$name" "$status" $((SECONDS - started))
  [[ $status == passed ]] || tail -n 30 "$logs/$name.log"
}

# skip NAME REASON
skip() {
  skipped=1
  printf '%s\n' "$2" >"$logs/$1.log"
  printf '%s\tskipped\t0\n' "$1" >>"$logs/results"
  printf 'gpu-check: %-24s skipped: %s\n' "$1" "$2"
}

# Arguments FAULT FILE: whether that report of a hypothesis names the fault as its variant.
names_variant='import json, sys; sys.exit(json.load(open(sys.argv[2]))["variant"] != sys.argv[1])'

write_results() {
  python3 - "$logs" "$out" "$(git -C "$root" rev-parse --verify -q HEAD 2>/dev/null || echo unknown)" <<'PYTHON'
import json, pathlib, subprocess, sys
logs, out, commit = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
checks = []
for line in (logs / "results").read_text().splitlines():
    name, status, seconds = line.split("\t")
    tail = (logs / f"{name}.log").read_text(errors="replace").splitlines()[-12:]
    checks.append({"name": name, "status": status, "seconds": int(seconds), "tail": tail})
bench = []
for log in sorted(logs.glob("bench_*.log")):
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            bench.append(json.loads(line))
gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                     capture_output=True, text=True).stdout.strip()
passed = bool(checks) and all(c["status"] == "passed" for c in checks)
pathlib.Path(out).write_text(json.dumps(
    {"format": "qdiff-gpu-check", "version": 1, "commit": commit, "gpu": gpu, "passed": passed,
     "checks": checks, "bench": bench}, indent=1) + "\n")
PYTHON
}

if ! nvidia-smi >"$logs/nvidia-smi.log" 2>&1; then
  printf 'gpu-check: no GPU here (nvidia-smi does not answer); nothing was checked\n' >&2
  exit 125
fi

# The judge needs the LibTorch reference, which a Python with PyTorch brings.
reference=(-DQDIFF_REFERENCE=OFF)
targets=(cuda_engine_tests cuda_engine_bench cuda_sanitizer_controls kv_cache_layout_cuda_test)
if python3 -c 'import torch' 2>/dev/null; then
  reference=(-DQDIFF_REFERENCE=ON)
  targets+=(qdiff)
fi
check configure 120 cmake -G Ninja -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release "${reference[@]}"
check build 300 cmake --build "$build" --parallel "$(nproc)" --target "${targets[@]}"
tests="$build/optimized/cuda/cuda_engine_tests"

if [[ $failed -eq 0 ]]; then
  check kv_cache_layout 60 "$build/optimized/cuda/kv_cache_layout_cuda_test"
  check engine 180 "$tests" '[gpu]~[invariance]~[faults]'
  check invariance 120 "$tests" '[invariance]'
  check planted_faults 120 "$tests" '[faults]'
  if [[ " ${targets[*]} " == *" qdiff "* ]]; then
    for dtype in bfloat16 float16; do
      check "judged_$dtype" 60 "$build/qdiff" run --backend cuda --dtype "$dtype" --out "$logs/judged_$dtype"
    done
    check judged_0.5b 120 "$build/qdiff" run end-to-end --model synthetic:qwen2.5-0.5b,profile=qwen,layers=4 \
      --backend cuda --out "$logs/judged_0.5b"
    for fault in H05.modulo H05.divide_by_kv H05.decode_only; do
      expected=1 check "found_$fault" 60 "$build/qdiff" run H05-gqa --backend cuda --inject "$fault" \
        --out "$logs/found_$fault"
      check "named_$fault" 5 python3 -c "$names_variant" "$fault" "$logs/found_$fault/hypotheses/H05.json"
    done
  else
    for name in judged_bfloat16 judged_float16 judged_0.5b {found,named}_H05.{modulo,divide_by_kv,decode_only}; do
      skip "$name" "this Python has no PyTorch, so qdiff, which judges, was not built"
    done
  fi
  # Small shapes: a tool slows a kernel by a factor of ten to a hundred.
  for tool in memcheck racecheck initcheck synccheck; do
    check "sanitizer_$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" 'all tensors*'
    # A tool that finds nothing must be one that would.
    expected=9 check "control_$tool" 30 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$build/optimized/cuda/cuda_sanitizer_controls" "$tool"
  done
  check bench_0.5b 60 "$build/optimized/cuda/cuda_engine_bench" 0.5b --contexts 0,1024 --tokens 64 --repeats 5
  check bench_7b 120 "$build/optimized/cuda/cuda_engine_bench" 7b --contexts 0,1024 --tokens 64 --repeats 5
fi
write_results
outcome=passed
status=0
if [[ $failed -ne 0 ]]; then
  outcome=FAILED
  status=1
elif [[ $skipped -ne 0 ]]; then
  outcome="passed but for what was skipped"
  status=125
fi
printf 'gpu-check: %s; %s\n' "$outcome" "$out"
exit "$status"

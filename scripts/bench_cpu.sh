#!/usr/bin/env bash
# Builds and runs the benchmark of the CPU engine: decode and prefill beside the machine's read bandwidth.
#
#   scripts/bench_cpu.sh                 the 0.5B shape in bfloat16
#   scripts/bench_cpu.sh ARGUMENTS…      `qdiff_cpu_bench ARGUMENTS…`; --help lists them
#
# Needs a C++ compiler, CMake and Ninja alone; the reference and its libraries are not built.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="$root/build/bench"
mkdir -p "$build"
log="$build/build.log"
if ! { cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DQDIFF_REFERENCE=OFF -DQDIFF_CUDA=OFF \
  -DBUILD_TESTING=OFF && cmake --build "$build" --target qdiff_cpu_bench --parallel "$(nproc)"; } >"$log" 2>&1; then
  tail -n 60 "$log" >&2
  printf 'qdiff: the build failed; the whole log is in %s\n' "$log" >&2
  exit 2
fi
exec "$build/optimized/cpu/qdiff_cpu_bench" "$@"

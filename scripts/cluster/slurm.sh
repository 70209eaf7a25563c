#!/usr/bin/env bash
# A suite of qdiff as a Slurm array, and its merge behind it.
#
#     scripts/cluster/slurm.sh SUITE SHARDS OUT [sbatch options...]
#
# Prints the number of the merge's job; its log and the whole run's report lie in OUT, a folder that all nodes see. A task
# whose node is lost is queued again and goes on with the units that it had done. QDIFF names the program (qdiff).
set -euo pipefail
qdiff="${QDIFF:-qdiff}"

# One task of the array. What its own units say is the merge's to tell.
run_shard() {
  local suite="$1" shards="$2" out="$3" status=0
  "$qdiff" run --suite "$suite" --shard "$SLURM_ARRAY_TASK_ID/$shards" --threads "${SLURM_CPUS_PER_TASK:-1}" \
    --resume --quiet --out "$out/shard-$SLURM_ARRAY_TASK_ID" || status=$?
  case "$status" in 0 | 1 | 125) exit 0 ;; *) exit "$status" ;; esac
}

merge() {
  local shards="$1" out="$2" folders=()
  for ((i = 1; i <= shards; ++i)); do folders+=("$out/shard-$i"); done
  exec "$qdiff" merge "${folders[@]}" --out "$out/report"
}

submit() {
  if [[ $# -lt 3 || ! "$2" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 SUITE SHARDS OUT [sbatch options...]" >&2
    exit 2
  fi
  local suite="$1" shards="$2" out="$3" array
  shift 3
  mkdir -p "$out"
  array="$(sbatch --parsable --job-name=qdiff --array="1-$shards" --requeue --open-mode=append \
    --output="$out/shard-%a.log" "$@" "$0" shard "$suite" "$shards" "$out")"
  sbatch --parsable --job-name=qdiff-merge --dependency="afterany:$array" --output="$out/merge.log" "$@" \
    "$0" merge "$shards" "$out"
}

case "${1:-}" in
  shard) shift && run_shard "$@" ;;
  merge) shift && merge "$@" ;;
  *) submit "$@" ;;
esac

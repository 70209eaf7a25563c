#!/usr/bin/env bash
# Checks the subjects of commits: at most 72 characters, so that a log shows them whole; the reasons go into the body.
# Commits from before the rule are left alone, and so are merges. Ends with 77 where there is no git history.
#
#   check_commits.sh [ROOT]
set -euo pipefail

root="${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
readonly longest=72 rule_from=2026-11-28T23:30:00Z
export LC_ALL=C.UTF-8   # characters, not bytes
if [[ ! -e "$root/.git" ]] ||
  ! subjects="$(git -C "$root" log --no-merges --since="$rule_from" --format='%h %s' 2>/dev/null)"; then
  echo "commits: SKIPPED, nothing was checked: git finds no history in $root"
  exit 77
fi
count=0 problems=0
while read -r commit subject; do
  [[ -n "$commit" ]] || continue
  count=$((count + 1))
  if [[ ${#subject} -gt $longest ]]; then
    problems=$((problems + 1))
    echo "$commit: the subject has ${#subject} characters, more than $longest: $subject"
  fi
done <<<"$subjects"
echo "commits: $count subjects checked, $problems problems"
[[ $problems -eq 0 ]]

#include <algorithm>
#include <iterator>

#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/run.h"

namespace qdiff::diagnose {

using compare::Verdict;

compare::RunResult merge(std::vector<compare::RunResult> results) {
  if (results.empty()) return {};
  compare::RunResult merged = std::move(results.front());
  for (std::size_t r = 1; r < results.size(); ++r) {
    compare::RunResult& next = results[r];
    auto append = [](auto& to, auto& from) { std::move(from.begin(), from.end(), std::back_inserter(to)); };
    const auto rank = [](Verdict verdict) {
      return verdict == Verdict::kDiverged ? 2 : verdict == Verdict::kInconclusive;
    };
    if (rank(next.verdict) > rank(merged.verdict)) {
      merged.verdict = next.verdict;
      merged.reason = next.reason;
    }
    for (std::size_t h = 0; h < merged.hypotheses.size(); ++h) {
      merged.hypotheses[h] = stronger(merged.hypotheses[h], next.hypotheses[h]);
    }
    merged.model += ", " + next.model;
    merged.config += "; " + next.config;
    merged.planted_executions += next.planted_executions;
    append(merged.cases, next.cases);
    append(merged.findings, next.findings);
    append(merged.free_runs, next.free_runs);
    append(merged.coverage.not_compared, next.coverage.not_compared);
    for (std::string& name : next.coverage.tensors_missing) {
      auto& missing = merged.coverage.tensors_missing;
      if (std::find(missing.begin(), missing.end(), name) == missing.end()) missing.push_back(std::move(name));
    }
    merged.coverage.tensors_compared += next.coverage.tensors_compared;
    if (next.closest && (!merged.closest || next.closest->ratio > merged.closest->ratio)) merged.closest = next.closest;
    merged.seconds += next.seconds;
  }
  merged.coverage.blind = blind_hypotheses(merged.hypotheses);
  return merged;
}

}  // namespace qdiff::diagnose

#include "harness/reduce/failure.h"

#include <algorithm>

namespace qdiff::reduce {

Failure failure_of(const findings::Finding& finding) {
  return {.op = finding.tensor.op,
          .kind = finding.kind,
          .cause = findings::cause_name(finding.explanation),
          .verdict = finding.explanation.verdict,
          .alternatives = finding.explanation.alternatives};
}

bool shows(const findings::Finding& finding, const Failure& failure) {
  const Failure other = failure_of(finding);
  if (other.op != failure.op || other.kind != failure.kind || other.cause != failure.cause) return false;
  // Verdicts stand in the order of their strength.
  if (failure.verdict && (!other.verdict || *other.verdict > *failure.verdict)) return false;
  return std::ranges::all_of(other.alternatives,
                             [&](FaultId id) { return std::ranges::count(failure.alternatives, id) > 0; });
}

std::optional<Injection> in_layers(const Injection& injection, const std::vector<int>& layers) {
  if (const auto* fault = std::get_if<Fault>(&injection)) {
    if (!fault->layer) return injection;
    const auto found = std::ranges::find(layers, *fault->layer);
    if (found == layers.end()) return std::nullopt;
    Fault moved = *fault;
    moved.layer = static_cast<int>(found - layers.begin());
    return moved;
  }
  Mistake moved = std::get<Mistake>(injection);
  const Selection before = moved.scope.layers;
  if (before.kind == Selection::Kind::kAll) return injection;
  moved.scope.layers = {.kind = Selection::Kind::kOnly};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (before.holds(layers[i])) moved.scope.layers.only.push_back(static_cast<std::int64_t>(i));
  }
  if (moved.scope.layers.only.empty()) return std::nullopt;
  return moved;
}

}  // namespace qdiff::reduce

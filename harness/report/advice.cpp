#include "harness/report/advice.h"

#include <algorithm>
#include <array>
#include <set>

namespace qdiff::report {
namespace {

// q and k as attention reads them, v, what attention gives, and the residual stream between it and the MLP.
constexpr std::array kWhereALayersPartsMeet = {Op::kQRope, Op::kKRope, Op::kVProj, Op::kAttnOutput, Op::kResidMid};
// A bug that acts on more operations than these tells nothing of where to look.
constexpr std::size_t kMostOpsOfABug = 4;

std::set<Op> acted_on(const findings::Explanation& explanation, const std::vector<VariantFacts>& catalogue) {
  std::set<Op> ops;
  for (const VariantFacts& facts : catalogue) {
    const bool named = explanation.variant == facts.id ||
                       std::ranges::find(explanation.alternatives, facts.id) != explanation.alternatives.end();
    if (named && facts.ops.size() <= kMostOpsOfABug) ops.insert(facts.ops.begin(), facts.ops.end());
  }
  return ops;
}

}  // namespace

std::optional<RecordAdvice> what_to_record(const findings::RunResult& result) {
  const findings::Finding* first = result.first_divergence();
  if (!result.of_trace || result.ranking || first == nullptr) return std::nullopt;
  if (first->explanation.verdict == findings::HypothesisVerdict::kConfirmed) return std::nullopt;
  std::set<Op> wanted = acted_on(first->explanation, result.catalogue);
  wanted.insert(kWhereALayersPartsMeet.begin(), kWhereALayersPartsMeet.end());
  RecordAdvice advice{first->step, {}};
  std::set<Op> known = {first->tensor.op};  // a span may hold an operation in several steps
  for (const Op op : first->operations) {
    if (row(op).optional || !wanted.contains(op) || !known.insert(op).second) continue;
    const bool in_layer = row(op).scope == Scope::kLayer;
    if (in_layer && first->tensor.layer == kNoLayer) continue;
    advice.tensors.push_back(tensor_name({op, in_layer ? first->tensor.layer : kNoLayer}));
  }
  if (advice.tensors.empty()) return std::nullopt;
  return advice;
}

}  // namespace qdiff::report

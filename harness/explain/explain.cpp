#include "harness/explain/explain.h"

#include <algorithm>
#include <span>

#include "harness/compare/judge.h"
#include "harness/explain/accept.h"
#include "harness/explain/mechanisms.h"

namespace qdiff::explain {
namespace {

using Recover = std::vector<Candidate> (*)(Scene&);

// Those that ask least of the oracle first.
constexpr Recover kMechanisms[] = {
    recover_copies,        recover_factor,         recover_sum,    recover_norm,         recover_bias,
    recover_rotation,      recover_rotation_pairs, recover_gate,   recover_visible,      recover_int8,
    recover_attention,     recover_heads,          recover_source, recover_product_rows, recover_product_inputs,
    recover_product_groups};

constexpr Recover kOfElements[] = {recover_factor, recover_sum, recover_norm, recover_bias, recover_gate};

// Of a span of many operations: what is seen without solving for one of them.
constexpr Recover kOfSpans[] = {recover_left_out, recover_copies};

}  // namespace

std::optional<Theory> explain(Scene& scene, const std::vector<Candidate>& named, Asked asked) {
  std::optional<Theory> best;
  const auto offer = [&](const Candidate& candidate) {
    // What takes more to say than what was found is not asked.
    if (best && candidate.theory.bits >= best->bits) return;
    try {
      std::optional<Theory> theory = accept(scene, candidate);
      if (theory && (!best || theory->bits < best->bits)) best = std::move(theory);
    } catch (const NotEvaluable&) {
    }
  };
  std::for_each(named.begin(), named.end(), offer);
  const bool is_span = !compare::is_usual_fusion(scene.instances().front().span);
  std::span<const Recover> mechanisms = kMechanisms;
  if (asked == Asked::kOfElements) mechanisms = kOfElements;
  if (is_span) mechanisms = kOfSpans;
  for (const auto recover : mechanisms) {
    std::vector<Candidate> candidates;
    try {
      candidates = recover(scene);
    } catch (const NotEvaluable&) {
      continue;
    }
    std::for_each(candidates.begin(), candidates.end(), offer);
  }
  return best;
}

}  // namespace qdiff::explain

#include "harness/explain/explain.h"

#include <algorithm>
#include <span>

#include "harness/compare/judge.h"
#include "harness/explain/accept.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

using Recover = std::vector<Candidate> (*)(Scene&);

// Those that ask least of the oracle first.
constexpr Recover kMechanisms[] = {
    recover_copies,       recover_moved_rows,     recover_factor,         recover_sum,     recover_norm,
    recover_bias,         recover_rotation,       recover_rotation_pairs, recover_gate,    recover_visible,
    recover_int8,         recover_attention,      recover_heads,          recover_source,  recover_product_weights,
    recover_product_rows, recover_product_inputs, recover_product_groups, recover_columns, recover_rotation_frequency,
    recover_softmax,      recover_other_layer,    recover_head_norm};

constexpr Recover kOfElements[] = {recover_factor, recover_sum,  recover_norm,
                                   recover_bias,   recover_gate, recover_product_weights};

constexpr Recover kOfAttention[] = {recover_visible, recover_attention, recover_heads};

// Of a span of many operations: what is seen without solving for one of them.
constexpr Recover kOfSpans[] = {recover_left_out, recover_copies};

// The same of the slots that a step writes alone: the others were moved as the step before left them.
Candidate of_new_slots(Scene& scene, const Candidate& candidate) {
  Candidate of_new = candidate;
  of_new.theory.bits += 1.0;
  of_new.theory.sentence += ", in the slots that a step writes";
  of_new.predict = [&scene, predict = candidate.predict](const Instance& instance) {
    std::optional<Expectation> theory = predict(instance);
    const Expectation& right = scene.right(instance);
    if (!theory || theory->value.size() != right.value.size()) return theory;
    const compare::Layout& layout = scene.layout(instance);
    for (std::size_t i = 0; i < theory->value.size(); ++i) {
      const std::int64_t slot = layout.position_of(static_cast<std::int64_t>(i) / layout.num_columns());
      if (slot >= instance.step().past_length) continue;
      theory->value[i] = right.value[i];
      if (!theory->unknown.empty()) theory->unknown[i] = 0;
      if (!theory->sigma_independent.empty()) theory->sigma_independent[i] = theory->sigma_shared[i] = 0.0F;
    }
    return theory;
  };
  return of_new;
}

}  // namespace

std::optional<Theory> explain(Scene& scene, const std::vector<Candidate>& named, Asked asked) {
  std::optional<Theory> best;
  const auto try_one = [&](const Candidate& candidate) {
    // What takes more to say than what was found is not asked.
    if (best && candidate.theory.bits >= best->bits) return;
    try {
      std::optional<Theory> theory = accept(scene, candidate);
      if (theory && (!best || theory->bits < best->bits)) best = std::move(theory);
    } catch (const NotEvaluable&) {
    }
  };
  const bool keeps_slots = is_cache(scene.op()) && std::ranges::any_of(scene.instances(), [](const Instance& instance) {
                             return instance.wrong && instance.step().past_length > 0;
                           });
  const auto offer = [&](const Candidate& candidate) {
    try_one(candidate);
    if (keeps_slots) try_one(of_new_slots(scene, candidate));
  };
  std::for_each(named.begin(), named.end(), offer);
  const bool is_span = !compare::is_usual_fusion(scene.instances().front().span);
  std::span<const Recover> mechanisms = kMechanisms;
  if (asked == Asked::kOfElements) mechanisms = kOfElements;
  if (asked == Asked::kOfAttention) mechanisms = kOfAttention;
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

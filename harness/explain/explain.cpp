#include "harness/explain/explain.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

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

// Whether both say the same of every wrong element.
bool predict_the_same(Scene& scene, const Candidate& a, const Candidate& b) try {
  return std::ranges::all_of(scene.instances(), [&](const Instance& instance) {
    if (!instance.wrong) return true;
    const std::optional<Expectation> of_a = a.predict(instance), of_b = b.predict(instance);
    if (!of_a || !of_b || of_a->value.size() != of_b->value.size()) return false;
    for (std::size_t i = 0; i < of_a->value.size(); ++i) {
      if (of_a->value[i] != of_b->value[i] && scene.is_wrong(instance, i)) return false;
    }
    return true;
  });
} catch (const NotEvaluable&) {
  return false;
}

// The parameters of theories as short as `found` that no wrong element tells from it, as "its cache slot"; the first
// few.
std::string same_here(Scene& scene, const Candidate& found, const std::vector<Candidate>& offered) {
  constexpr int kMostNamed = 3;
  std::string all;
  int named = 0;
  for (const Candidate& other : offered) {
    const Theory& theory = other.theory;
    if (theory.mechanism != found.theory.mechanism || theory.bits != found.theory.bits) continue;
    if (theory.parameters == found.theory.parameters || !predict_the_same(scene, found, other)) continue;
    if (++named > kMostNamed) break;
    for (const auto& parameter : theory.parameters) {
      const auto* words = std::get_if<std::string>(&parameter.second);
      const bool differs = std::ranges::find(found.theory.parameters, parameter) == found.theory.parameters.end();
      if (words != nullptr && differs) all += (all.empty() ? "" : ", ") + *words;
    }
  }
  return all;
}

}  // namespace

std::optional<Theory> explain(Scene& scene, const std::vector<Candidate>& named, Asked asked) {
  std::optional<Theory> best;
  std::optional<Candidate> found;  // what the best was made of,
  std::vector<Candidate> offered;  // and what else its mechanism offered
  const auto try_one = [&](const Candidate& candidate) {
    // What takes more to say than what was found is not asked.
    if (best && candidate.theory.bits >= best->bits) return;
    try {
      std::optional<Theory> theory = accept(scene, candidate);
      if (!theory || (best && theory->bits >= best->bits)) return;
      best = std::move(theory);
      found = candidate;
    } catch (const NotEvaluable&) {
    }
  };
  const bool keeps_slots = is_cache(scene.op()) && std::ranges::any_of(scene.instances(), [](const Instance& instance) {
                             return instance.wrong && instance.step().past_length > 0;
                           });
  const auto offer = [&](std::vector<Candidate> candidates) {
    const std::size_t plain = candidates.size();
    for (std::size_t i = 0; keeps_slots && i < plain; ++i) candidates.push_back(of_new_slots(scene, candidates[i]));
    const double before = best ? best->bits : HUGE_VAL;
    std::ranges::for_each(candidates, try_one);
    if (best && best->bits < before) offered = std::move(candidates);
  };
  offer(named);
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
    offer(std::move(candidates));
  }
  if (best) {
    if (const std::string words = same_here(scene, *found, offered); !words.empty()) {
      best->sentence += " (" + words + " would be the same here)";
    }
  }
  return best;
}

}  // namespace qdiff::explain

// Rows that right code has elsewhere in the same tensor: y(b, p) = right(b + batch_shift, p + shift). Unlike copies of
// what was recorded, the row that stands here was overwritten itself, so it is looked for among right code's: the
// nearest to the wrong elements of a row votes.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "harness/compare/sums.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"
#include "harness/explain/vector_law.h"

namespace qdiff::explain {
namespace {

// Bits of error of the wrong elements of a row beside another row of right code; stops beyond `most`.
double misfit(Scene& scene, const Instance& instance, std::int64_t row, std::int64_t other, double most) {
  const Expectation& right = scene.right(instance);
  const std::vector<double>& actual = scene.actual(instance);
  const std::int64_t width = scene.layout(instance).num_columns();
  double sum = 0.0;
  for (std::int64_t c = 0; c < width && sum <= most; ++c) {
    const auto here = static_cast<std::size_t>(row * width + c), there = static_cast<std::size_t>(other * width + c);
    if (!scene.is_wrong(instance, here)) continue;
    const double gold = right.value[there];
    if (!std::isfinite(gold) || !std::isfinite(actual[here])) return HUGE_VAL;
    const bool has_noise = !right.sigma_independent.empty();
    const double deviation =
        compare::deviation(has_noise ? right.sigma_independent[there] : 0.0,
                           has_noise ? right.sigma_shared[there] : 0.0, spacing(instance.actual.dtype, gold));
    sum += bits_of_error((actual[here] - gold) / deviation);
  }
  return sum;
}

using Shift = std::pair<std::int64_t, std::int64_t>;  // of the batch row, of the position

// That of right code's row which comes by far the nearest to a wrong row; none where no other row does.
std::optional<Shift> shift_of(Scene& scene, const SampledRow& sampled) {
  constexpr double kFarNearer = 0.5;  // of the row's own bits of error
  const Instance& instance = *sampled.instance;
  const compare::Layout& layout = scene.layout(instance);
  double least = kFarNearer * misfit(scene, instance, sampled.row, sampled.row, HUGE_VAL);
  std::optional<Shift> shift;
  const auto token_of = [&](std::int64_t row) {
    return token_at(instance, layout.batch_of(row),
                    first_slot(layout, scene.op(), instance.step()) + layout.position_of(row));
  };
  for (std::int64_t other : scene.real_rows(instance)) {
    // Right code gives equal tokens equal rows, wherever nothing depends on the position.
    if (token_of(other) == token_of(sampled.row)) continue;
    const double here = misfit(scene, instance, sampled.row, other, least);
    if (!(here < least)) continue;
    least = here;
    shift = {layout.batch_of(other) - layout.batch_of(sampled.row),
             layout.position_of(other) - layout.position_of(sampled.row)};
  }
  return shift;
}

// Of rows that come from outside the tensor it says nothing. What moves rows does not know of padding.
Expectation moved(Scene& scene, const Instance& instance, const Law& law) {
  const Expectation& right = scene.right(instance);
  const compare::Layout& layout = scene.layout(instance);
  const std::int64_t width = layout.num_columns();
  Expectation theory = right;
  theory.unknown.assign(right.value.size(), 1);
  for (std::int64_t row : scene.real_rows(instance)) {
    const std::int64_t batch = layout.batch_of(row) + law.batch_shift, position = layout.position_of(row) + law.shift;
    if (batch < 0 || batch >= layout.batch() || position < 0 || position >= layout.num_positions()) continue;
    const std::int64_t from = batch * layout.num_positions() + position;
    for (std::int64_t c = 0; c < width; ++c) {
      const auto here = static_cast<std::size_t>(row * width + c), there = static_cast<std::size_t>(from * width + c);
      set_moved(theory, here, right, there);
      theory.unknown[here] = 0;
    }
  }
  return theory;
}

}  // namespace

std::vector<Candidate> recover_moved_rows(Scene& scene) {
  constexpr std::size_t kSampled = 24;
  if (scene.layout(scene.instances().front()).is_scores()) return {};
  std::map<Shift, int> votes;
  for (const SampledRow& sampled : sample_wrong_rows(scene, kSampled)) {
    if (const auto shift = shift_of(scene, sampled)) ++votes[*shift];
  }
  if (votes.empty()) return {};
  const auto by_votes = [](const auto& vote) { return vote.second; };
  const Shift most = std::ranges::max_element(votes, {}, by_votes)->first;
  const Law law{.source = scene.instances().front().key.id, .shift = most.second, .batch_shift = most.first};
  const std::string source = describe(law, scene.layer(), true);
  Candidate candidate = candidate_of(scene, "copy.vectors", bits_of(law), " holds what right code has in " + source);
  if (is_cache(scene.op())) candidate.theory.hypothesis = "H01";
  candidate.theory.parameters = {{"source", source}};
  candidate.predict = [&scene, law](const Instance& instance) -> std::optional<Expectation> {
    return moved(scene, instance, law);
  };
  return {candidate};
}

}  // namespace qdiff::explain

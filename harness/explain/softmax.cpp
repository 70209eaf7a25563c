// A softmax whose sum has something beside the slots: p_s = exp(s) / (Z + n exp(0)), with n scores of 0 that stand for
// no slot (an attention sink, a softmax with 1 added). n follows from the ratio f of a row to right code's, n = Z (1 /
// f - 1).
#include <algorithm>
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"
#include "harness/explain/scores_of_zero.h"

namespace qdiff::explain {
namespace {

// By what a row of right code is multiplied where so many scores of 0 are counted beside its own.
double factor_of(const double* scores, std::int64_t width, double added) {
  double top = 0.0, sum = 0.0;
  for (std::int64_t s = 0; s < width; ++s) top = std::max(top, scores[s]);
  for (std::int64_t s = 0; s < width; ++s) sum += std::exp(scores[s] - top);
  return sum / (sum + added * std::exp(-top));
}

// Z of a row.
double sum_of(const double* scores, std::int64_t width) {
  double sum = 0.0;
  for (std::int64_t s = 0; s < width; ++s) sum += std::exp(scores[s]);
  return sum;
}

std::int64_t added_scores(Scene& scene, const TensorId& scores) {
  std::vector<ScoresOfZero> said;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 256)) {
    const Instance& instance = *sampled.instance;
    const auto of = scene.recorded(instance, {instance.key.step, scores});
    if (!of) return 0;
    const std::int64_t width = scene.layout(instance).num_columns(), start = sampled.row * width;
    double along = 0.0, whole = 0.0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double gold = scene.right(instance).value[static_cast<std::size_t>(start + c)];
      along += gold * scene.actual(instance)[static_cast<std::size_t>(start + c)];
      whole += gold * gold;
    }
    said.push_back({along / whole, sum_of(of->data() + start, width)});
  }
  return counted_zeros(std::move(said));
}

}  // namespace

std::vector<Candidate> recover_softmax(Scene& scene) {
  const Instance& first = scene.instances().front();
  if (first.span.size() != 1 || arithmetic_of(scene.op()) != Arithmetic::kSoftmax) return {};
  const TensorId scores = input_keys(first.key, scene.config()).front().id;
  const auto added = static_cast<double>(added_scores(scene, scores));
  if (added < 1.0) return {};
  Candidate candidate = candidate_of(scene, "beyond_end", 1.0 + std::log2(1.0 + added),
                                     ": the softmax counts " + number_text(added) +
                                         (added == 1.0 ? " score" : " scores") + " of 0 more than there are slots");
  candidate.theory.hypothesis = "H02";
  candidate.theory.parameters = {{"more slots", added}};
  candidate.predict = [&scene, scores, added](const Instance& instance) -> std::optional<Expectation> {
    const auto of = scene.recorded(instance, {instance.key.step, scores});
    const Expectation& right = scene.right(instance);
    if (!of || right.sigma_independent.empty()) return std::nullopt;
    Expectation theory = right;
    const std::int64_t width = scene.layout(instance).num_columns();
    const double unit = 4.0 * unit_roundoff(scene.precision().accumulate);
    for (std::size_t i = 0; i < theory.value.size(); ++i) {
      const std::int64_t start = static_cast<std::int64_t>(i) / width * width;
      const double factor = factor_of(of->data() + start, width, added);
      set_scaled(theory, i, right, factor * right.value[i], unit);
    }
    return theory;
  };
  return {candidate};
}

}  // namespace qdiff::explain

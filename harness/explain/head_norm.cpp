// Heads that are normalised, as queries and keys of other architectures are: each vector of a head is right code's
// divided by its root mean square. A rotation leaves that as it is, so that it shows behind one too.
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {

std::vector<Candidate> recover_head_norm(Scene& scene) {
  const compare::Layout& layout = scene.layout(scene.instances().front());
  if (layout.is_scores() || layout.head_columns() == 0 || is_cache(scene.op())) return {};
  Candidate candidate =
      candidate_of(scene, "norm.heads", 1.0, " is right code's, each head divided by its root mean square");
  candidate.predict = [&scene](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    if (right.sigma_independent.empty()) return std::nullopt;
    Expectation theory = right;
    const auto d = static_cast<std::size_t>(scene.layout(instance).head_columns());
    // The engine may have rounded what it normalised.
    const double unit = unit_roundoff(scene.precision().activations);
    for (std::size_t start = 0; start < theory.value.size(); start += d) {
      double sum = 0.0;
      for (std::size_t i = start; i < start + d; ++i) sum += right.value[i] * right.value[i];
      const double root = std::sqrt(sum / static_cast<double>(d) + scene.config().rms_norm_eps);
      for (std::size_t i = start; i < start + d; ++i) set_scaled(theory, i, right, right.value[i] / root, unit);
    }
    return theory;
  };
  return {candidate};
}

}  // namespace qdiff::explain

#include "harness/explain/explain.h"

#include <algorithm>
#include <array>

#include "harness/explain/accept.h"
#include "harness/explain/mechanisms.h"

namespace qdiff::explain {
namespace {

// Those that ask least of the oracle first.
constexpr std::array kMechanisms = {recover_copies,         recover_factor,        recover_sum,    recover_norm,
                                    recover_bias,           recover_rotation,      recover_gate,   recover_visible,
                                    recover_int8,           recover_heads,         recover_source, recover_product_rows,
                                    recover_product_inputs, recover_product_groups};

}  // namespace

std::optional<Theory> explain(Scene& scene) {
  std::optional<Theory> best;
  for (const auto recover : kMechanisms) {
    std::vector<Candidate> candidates;
    try {
      candidates = recover(scene);
    } catch (const NotEvaluable&) {
      continue;
    }
    for (const Candidate& candidate : candidates) {
      // What takes more to say than what was found is not asked.
      if (best && candidate.theory.bits >= best->bits) continue;
      try {
        std::optional<Theory> theory = accept(scene, candidate);
        if (theory && (!best || theory->bits < best->bits)) best = std::move(theory);
      } catch (const NotEvaluable&) {
      }
    }
  }
  return best;
}

}  // namespace qdiff::explain

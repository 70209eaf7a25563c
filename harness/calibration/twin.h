// An honest engine: the forward pass written plainly in float32, with every choice that a correct engine is free to
// make drawn at random. It shares no code with the reference or with the optimized engines, so that what the judge
// makes of it is a measurement.
#pragma once

#include <cstdint>
#include <map>

#include "harness/calibration/random.h"
#include "harness/calibration/scenario.h"
#include "harness/calibration/sums.h"
#include "harness/trace/recording.h"

namespace qdiff::calibration {

enum class Exponential : std::uint8_t {
  kLibrary,  // expf
  kBaseTwo,  // exp2f(x log2 e)
  kOneOff,   // expf, then at random the neighbouring number
};

enum class Sigmoid : std::uint8_t {
  kQuotient,  // 1 / (1 + exp(-x))
  kTanh,      // (1 + tanh(x / 2)) / 2, accurate absolutely alone
};

// Drawn once for an engine.
struct Choices {
  std::map<Op, SumStyle> sums;  // of projections and norms
  SumStyle score_sum, weight_sum, value_sum;
  Exponential exponential = Exponential::kLibrary;
  bool rsqrt_one_off = false;            // 1/sqrt to within one unit in the last place
  bool weight_times_root_first = false;  // x (w r) instead of (x r) w; where rms_norm.normalized is not declared
  bool multiply_by_reciprocal = false;
  bool table_in_double = false;  // cos and sin of an angle in double, rounded once
  bool frequency_in_double = false;
  bool fused_rotation = false;
  bool online_softmax = false;  // where neither scores nor probabilities are recorded
  bool scale_in_query = false;  // where attention.scores is not declared
  std::int64_t key_tile = 64;
  bool stand_in_for_mask = false;  // the type's lowest finite number, not -inf
  Sigmoid sigmoid = Sigmoid::kQuotient;
  bool sigmoid_rounded = false;       // as silu is, before the product with x; where mlp.silu is declared
  bool cosine_by_sine = false;        // sin(pi/2 - x) in float32
  bool exponential_rounded = false;   // before it is summed; where attention.probs is declared
  bool scaled_query_rounded = false;  // behind the scale, not before it; where attention.query is declared
};
Choices draw_choices(Random& random, const Precision& precision);

// Runs all steps and records every tensor that the scenario materialises. Pad rows hold NaN.
trace::Recording run_twin(const Scenario& scenario, const ScenarioWeights& weights);

}  // namespace qdiff::calibration

// The gate: y = f(gate) * up with another f than SiLU, out of a list of the curves that are in use, or SiLU clipped at
// a limit that is read off the candidate's largest quotient y / up.
#include <algorithm>
#include <cmath>

#include "harness/contract/mistake_laws.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

struct Curve {
  std::string words;
  double bits;
};

std::vector<Curve> curves(DType rounded) {
  std::vector<Curve> list;
  for (const std::string& words : gate_functions()) list.push_back({words, 4.0});
  // A sigmoid of negative x as what the rounded one of -x leaves to 1 loses its digits.
  list.push_back({"x * (1 - sigmoid(-x)) with the sigmoid rounded to " + std::string(name(rounded)), 6.0});
  return list;
}

Candidate with_curve(Scene& scene, const Curve& curve, const std::vector<TensorId>& inputs) {
  Candidate candidate = candidate_of(scene, "gate.function", curve.bits,
                                     " is " + curve.words + " of the gate, times up, where right code takes SiLU");
  candidate.theory.parameters = {{"function", curve.words}};
  candidate.predict = [&scene, function = parse_gate_function(curve.words),
                       inputs](const Instance& instance) -> std::optional<Expectation> {
    const auto gate = scene.recorded(instance, {instance.key.step, inputs[0]});
    const auto up = scene.recorded(instance, {instance.key.step, inputs[1]});
    if (!function || !gate || !up) return std::nullopt;
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    const double unit = 4.0 * unit_roundoff(scene.precision().accumulate);
    for (std::size_t i = 0; i < right.value.size(); ++i) {
      set_scaled(theory, i, right, (*function)((*gate)[i]) * (*up)[i], unit);
    }
    return theory;
  };
  return candidate;
}

}  // namespace

std::vector<Candidate> recover_gate(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  if (first.span.size() != 1 || arithmetic_of(scene.op()) != Arithmetic::kGate) return candidates;
  std::vector<TensorId> inputs;
  for (const TensorKey& key : input_keys(first.key, scene.config())) inputs.push_back(key.id);
  for (const Curve& curve : curves(scene.precision().activations))
    candidates.push_back(with_curve(scene, curve, inputs));

  double largest = 0.0;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 32)) {
    const auto up = scene.recorded(*sampled.instance, {sampled.instance->key.step, inputs[1]});
    if (!up) return candidates;
    const std::vector<double>& actual = scene.actual(*sampled.instance);
    const std::int64_t width = scene.layout(*sampled.instance).num_columns();
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      if (!scene.is_wrong(*sampled.instance, i)) continue;
      // A quotient of numbers of few digits is no limit yet; large ups have most of them right.
      if (std::fabs((*up)[i]) > 1e-3 && std::isfinite(actual[i])) largest = std::max(largest, actual[i] / (*up)[i]);
    }
  }
  for (int digits : {1, 2}) {
    if (!(largest > 0.0)) break;
    double limit = largest;  // of silu(x) = largest, by fixed-point iteration x = largest / sigmoid(x)
    for (int i = 0; i < 100; ++i) limit = largest * (1.0 + std::exp(-limit));
    const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(limit)));
    limit = std::round(limit * unit) / unit;
    const std::string number = number_text(limit);
    for (const std::string& words :
         {"SiLU of at most " + number, "SiLU of a gate between -" + number + " and " + number}) {
      candidates.push_back(with_curve(scene, {words, 2.0 + bits_of_digits(digits)}, inputs));
    }
  }
  return candidates;
}

}  // namespace qdiff::explain

// A bias with another coefficient, or of another projection. The bias itself is right code's value less that of the
// product alone; another projection's is what its row makes of a product of zeros.
#include <algorithm>
#include <cmath>

#include "harness/explain/column_runs.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

bool adds_bias(Op op, const ModelConfig& config) {
  return arithmetic_of(op) == Arithmetic::kBias && config.has(row(op).component);
}

// [n] of the bias of `id`, as the oracle reads it.
std::vector<double> bias_of(Scene& scene, const Instance& instance, const TensorId& id) {
  const TensorKey key{instance.key.step, id};
  const TensorKey product = input_keys(key, scene.config()).front();
  const Step& step = instance.step();
  const Shape shape = output_shape(id.op, scene.config(), step.batch(), step.num_tokens(), step.valid_length());
  Overlay zeros(*instance.recorded);
  zeros.replace(product, Tensor(DType::kF64, shape));
  std::vector<double> value = scene.evaluate(instance, zeros, std::span(&key, 1)).value;
  value.resize(static_cast<std::size_t>(shape.back()));
  return value;
}

Candidate adding(Scene& scene, Candidate candidate, const std::vector<double>& beside) {
  candidate.theory.hypothesis = "H06";
  candidate.predict = [&scene, beside](const Instance& instance) -> std::optional<Expectation> {
    Expectation theory = scene.right(instance);
    for (std::size_t i = 0; i < theory.value.size(); ++i) theory.value[i] += beside[i % beside.size()];
    return theory;
  };
  return candidate;
}

// The bias of other rows, cut out of several: an element may be a column's bias if each sampled value lies within half
// a spacing and the expected rounding of it, which a final rounding never leaves.
void add_rows(Scene& scene, const std::vector<SampledRow>& rows, const std::vector<TensorId>& ids,
              const std::vector<std::vector<double>>& biases, std::vector<Candidate>& candidates) {
  constexpr double kDeviations = 6.0;
  const std::vector<double>& own = biases.front();
  std::vector<std::vector<Origin>> possible(own.size());
  for (std::size_t c = 0; c < own.size(); ++c) {
    for (std::size_t source = 0; source < biases.size(); ++source) {
      for (std::size_t j = 0; j < biases[source].size(); ++j) {
        const bool fits = std::all_of(rows.begin(), rows.end(), [&](const SampledRow& sampled) {
          const Expectation& right = scene.right(*sampled.instance);
          const std::size_t i = static_cast<std::size_t>(sampled.row) * own.size() + c;
          const double actual = scene.actual(*sampled.instance)[i];
          const double error = std::fabs(actual - (right.value[i] - own[c] + biases[source][j]));
          return error <=
                 0.5 * spacing(sampled.instance->actual.dtype, actual) + kDeviations * right.sigma_independent[i];
        });
        if (fits) possible[c].push_back({source, static_cast<std::int64_t>(j)});
      }
    }
  }
  const std::vector<Run> runs = runs_of(possible);
  if (runs.empty()) return;
  std::vector<double> beside(own.size());
  for (const Run& run : runs) {
    for (std::int64_t c = run.first; c <= run.last; ++c) {
      const auto to = static_cast<std::size_t>(c);
      beside[to] = biases[run.origin.source][static_cast<std::size_t>(run.origin.column + c - run.first)] - own[to];
    }
  }
  double all = 0.0;
  std::vector<std::string> names;
  for (std::size_t source = 0; source < biases.size(); ++source) {
    all += static_cast<double>(biases[source].size());
    names.push_back(short_name(ids[source], scene.layer()));
  }
  const double bits = static_cast<double>(runs.size()) * (std::log2(static_cast<double>(own.size())) + std::log2(all));
  const std::int64_t of_head = scene.layout(scene.instances().front()).head_columns();
  const std::string says = " adds other elements of the biases: " + summarise_runs(runs, names, of_head);
  candidates.push_back(adding(scene, candidate_of(scene, "bias.rows", bits, says), beside));
  candidates.back().theory.parameters = {{"rows", describe_runs(runs, names, of_head)}};
}

}  // namespace

std::vector<Candidate> recover_bias(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!adds_bias(scene.op(), scene.config())) return candidates;
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, 32);
  if (rows.empty()) return candidates;
  const Instance& first = *rows.front().instance;
  const std::vector<double> bias = bias_of(scene, first, first.key.id);

  double along = 0.0, whole = 0.0;
  for (const SampledRow& sampled : rows) {
    const Expectation& right = scene.right(*sampled.instance);
    const std::vector<double>& actual = scene.actual(*sampled.instance);
    for (std::size_t c = 0; c < bias.size(); ++c) {
      const std::size_t i = static_cast<std::size_t>(sampled.row) * bias.size() + c;
      if (!std::isfinite(actual[i]) || !scene.is_wrong(*sampled.instance, i)) continue;
      along += bias[c] * (actual[i] - right.value[i]);
      whole += bias[c] * bias[c];
    }
  }
  if (whole > 0.0 && std::isfinite(along)) {
    const double fitted = 1.0 + along / whole;
    for (double coefficient : {std::round(fitted), std::round(fitted * 4.0) / 4.0, fitted}) {
      std::vector<double> beside(bias.size());
      for (std::size_t c = 0; c < bias.size(); ++c) beside[c] = (coefficient - 1.0) * bias[c];
      const double bits = coefficient == fitted ? bits_of_digits(5) : 3.0;
      const std::string says =
          coefficient == 0.0 ? " adds no bias" : " adds its bias " + number_text(coefficient) + " times";
      candidates.push_back(adding(scene, candidate_of(scene, "bias", bits, says), beside));
      candidates.back().theory.parameters = {{"coefficient", coefficient}};
    }
  }
  std::vector<TensorId> others;
  for (const OperationRow& other : kOperationTable) {
    if (!adds_bias(other.op, scene.config())) continue;
    for (int layer = 0; layer < static_cast<int>(scene.config().num_layers); ++layer) {
      const TensorId id{other.op, layer};
      if (id != first.key.id) others.push_back(id);
    }
  }
  std::vector<TensorId> of_layer = {first.key.id};
  std::vector<std::vector<double>> biases = {bias};
  for (const TensorId& id : others) {
    std::vector<double> beside = bias_of(scene, first, id);
    if (id.layer == scene.layer()) {
      of_layer.push_back(id);
      biases.push_back(beside);
    }
    if (beside.size() < bias.size()) continue;  // a shorter one would be read beyond its end
    beside.resize(bias.size());
    for (std::size_t c = 0; c < bias.size(); ++c) beside[c] -= bias[c];
    const std::string name = short_name(id, scene.layer());
    candidates.push_back(
        adding(scene, candidate_of(scene, "bias", bits_of_choice(others.size()), " adds the bias of " + name), beside));
    candidates.back().theory.parameters = {{"source", name + ".bias"}};
  }
  if (!scene.right(first).sigma_independent.empty()) add_rows(scene, rows, of_layer, biases, candidates);
  return candidates;
}

}  // namespace qdiff::explain

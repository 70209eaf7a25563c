// A sum with other coefficients: y = c1 a + c2 b (+ c3 t with any other recorded tensor t of the same size), by least
// squares over the wrong elements, each weighted by its expected rounding; then as whole numbers.
#include <algorithm>
#include <cmath>

#include "harness/explain/least_squares.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

constexpr std::size_t kMostRows = 24;

std::vector<double> fit_terms(Scene& scene, const std::vector<SampledRow>& rows, const std::vector<TensorId>& terms) {
  std::vector<double> a, b;
  for (const SampledRow& sampled : rows) {
    const Instance& instance = *sampled.instance;
    std::vector<std::vector<double>> values;
    for (const TensorId& term : terms) {
      auto recorded = scene.recorded(instance, {instance.key.step, term});
      if (!recorded) return {};
      values.push_back(std::move(*recorded));
    }
    const std::int64_t width = scene.layout(instance).num_columns();
    const std::vector<double>& actual = scene.actual(instance);
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      if (!std::isfinite(actual[i]) || !scene.is_wrong(instance, i)) continue;
      if (!std::ranges::all_of(values, [i](const std::vector<double>& of) { return std::isfinite(of[i]); })) continue;
      // What cancels to zero is no better known than what it came from.
      double largest = std::fabs(actual[i]);
      for (const std::vector<double>& value : values) largest = std::max(largest, std::fabs(value[i]));
      const double weight = 1.0 / spacing(instance.actual.dtype, largest);
      for (const std::vector<double>& value : values) a.push_back(value[i] * weight);
      b.push_back(actual[i] * weight);
    }
  }
  const std::size_t count = b.size();
  auto solved = least_squares(std::move(a), std::move(b), count, terms.size());
  return solved ? *solved : std::vector<double>{};
}

Candidate with_coefficients(Scene& scene, const std::vector<TensorId>& terms, const std::vector<double>& coefficients,
                            double bits) {
  std::string words;
  Facts parameters;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    if (coefficients[i] == 0.0) continue;
    const std::string name = short_name(terms[i], scene.layer());
    parameters.emplace_back(name, coefficients[i]);
    if (!words.empty()) words += coefficients[i] < 0.0 ? " - " : " + ";
    if (words.empty() && coefficients[i] < 0.0) words += "-";
    const double size = std::fabs(coefficients[i]);
    words += (size == 1.0 ? "" : number_text(size) + " * ") + name;
  }
  Candidate candidate = candidate_of(scene, "sum", bits, " is " + (words.empty() ? "0" : words));
  candidate.theory.hypothesis = "H04";
  candidate.theory.parameters = std::move(parameters);
  candidate.predict = [&scene, terms, coefficients](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    std::vector<double> magnitude(right.value.size());
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const auto values = scene.recorded(instance, {instance.key.step, terms[i]});
      if (!values || values->size() != right.value.size()) return std::nullopt;
      if (coefficients[i] == 0.0) continue;  // it is left out whatever it holds
      for (std::size_t e = 0; e < right.value.size(); ++e) {
        theory.value[e] += coefficients[i] * (*values)[e];
        magnitude[e] += std::fabs(coefficients[i] * (*values)[e]);
      }
    }
    // One rounding of each partial sum, uniform over a spacing of the accumulate type (reference/noise.cpp).
    const double unit = unit_roundoff(scene.precision().accumulate) / std::sqrt(3.0);
    for (std::size_t e = 0; e < right.value.size(); ++e) {
      theory.sigma_independent[e] = static_cast<float>(unit * magnitude[e]);
    }
    return theory;
  };
  return candidate;
}

}  // namespace

std::vector<Candidate> recover_sum(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  if (arithmetic_of(scene.op()) != Arithmetic::kAdd || first.span.size() != 1) return candidates;
  std::vector<TensorId> own;
  for (const TensorKey& key : input_keys(first.key, scene.config())) own.push_back(key.id);
  const auto same_width = [&](const TensorId& id) {
    const Shape shape = output_shape(id.op, scene.config(), 1, 1, 1);
    return shape.size() == 3 && shape[2] == scene.layout(first).num_columns();
  };
  if (!same_width(own[0]) || !same_width(own[1])) return candidates;
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, kMostRows);
  if (rows.empty()) return candidates;
  std::vector<TensorId> others;
  for (const OperationRow& other : kOperationTable) {
    const TensorId id{other.op, other.scope == Scope::kLayer ? scene.layer() : kNoLayer};
    if (id == own[0] || id == own[1] || !runs_before(id, first.key.id) || !same_width(id)) continue;
    others.push_back(id);
  }
  const auto offer = [&](const std::vector<TensorId>& terms, double bits) {
    const std::vector<double> fitted = fit_terms(scene, rows, terms);
    if (fitted.empty()) return;
    constexpr double kQuarters = 4.0;
    std::vector<double> whole, quarters;
    for (double value : fitted) {
      whole.push_back(std::round(value));
      quarters.push_back(std::round(value * kQuarters) / kQuarters);
    }
    const auto count = static_cast<double>(terms.size());
    candidates.push_back(with_coefficients(scene, terms, whole, bits + 2.0 * count));
    if (quarters != whole) candidates.push_back(with_coefficients(scene, terms, quarters, bits + 4.0 * count));
    candidates.push_back(with_coefficients(scene, terms, fitted, bits + bits_of_digits(5) * count));
  };
  offer(own, 0.0);
  for (const TensorId& other : others) offer({own[0], own[1], other}, bits_of_choice(others.size()));
  return candidates;
}

}  // namespace qdiff::explain

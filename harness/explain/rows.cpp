#include "harness/explain/rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <set>
#include <stdexcept>

namespace qdiff::explain {

double bits_of_choice(std::size_t size) { return size > 1 ? std::log2(static_cast<double>(size)) : 0.0; }

double bits_of_digits(int digits) { return std::log2(10.0) * digits + 1.0; }

double bits_of_error(double deviations) { return 0.5 * std::log2(1.0 + deviations * deviations); }

bool is_cache(Op op) { return arithmetic_of(op) == Arithmetic::kAppend; }

std::vector<TensorKey> input_keys(const TensorKey& key, const ModelConfig& config) {
  std::vector<TensorKey> keys;
  for (const Input& input : row(key.id.op).inputs) {
    if (input.from != From::kPreviousStep) keys.push_back({key.step, resolve(input, key.id, config)});
  }
  return keys;
}

std::vector<TensorKey> span_inputs(const Scene& scene, const Instance& instance) {
  std::set<TensorKey> inputs;
  for (const TensorKey& key : instance.span) {
    for (const TensorKey& input : input_keys(key, scene.config())) {
      const bool evaluated = std::find(instance.span.begin(), instance.span.end(), input) != instance.span.end();
      if (!evaluated && scene.is_recorded(instance, input)) inputs.insert(input);
    }
  }
  return {inputs.begin(), inputs.end()};
}

std::string short_name(const TensorId& id, int layer) {
  const std::string name(row(id.op).name);
  if (id.layer == layer || id.layer == kNoLayer) return name;
  return name + " of layer " + std::to_string(id.layer);
}

std::vector<SampledRow> sample_wrong_rows(Scene& scene, std::size_t most) {
  std::vector<SampledRow> rows;
  for (const Instance& instance : scene.instances()) {
    for (std::int64_t r : scene.wrong_rows(instance)) rows.push_back({&instance, r});
  }
  if (rows.size() <= most) return rows;
  std::vector<SampledRow> some;
  for (std::size_t i = 0; i < most; ++i) some.push_back(rows[i * rows.size() / most]);
  return some;
}

std::int32_t token_at(const Instance& instance, std::int64_t batch, std::int64_t slot) {
  for (const Step& step : *instance.steps) {
    if (slot >= step.valid_length()) continue;
    return step.tokens[static_cast<std::size_t>(batch)][static_cast<std::size_t>(slot - step.past_length)];
  }
  throw std::out_of_range("no step of the case has slot " + std::to_string(slot));
}

std::int64_t first_slot(const compare::Layout& layout, Op op, const Step& step) {
  return is_cache(op) ? 0 : step.past_length + step.num_tokens() - layout.num_positions();
}

Candidate candidate_of(const Scene& scene, const std::string& mechanism, double bits, const std::string& says) {
  Candidate candidate;
  candidate.theory.mechanism = mechanism;
  candidate.theory.bits = kMechanismBits + bits;
  candidate.theory.sentence = std::string(row(scene.op()).name) + says;
  return candidate;
}

Expectation blank(const Expectation& right) {
  Expectation expectation;
  expectation.shape = right.shape;
  expectation.value.resize(right.value.size());
  expectation.sigma_independent.resize(right.value.size());
  expectation.sigma_shared.resize(right.value.size());
  return expectation;
}

void set_scaled(Expectation& expectation, std::size_t element, const Expectation& right, double value, double unit) {
  expectation.value[element] = value;
  const double magnitude = std::fabs(right.value[element]);
  if (!right.sigma_independent.empty() && magnitude > 0.0 && std::isfinite(magnitude)) {
    const auto ratio = static_cast<float>(std::fabs(value) / magnitude);
    expectation.sigma_independent[element] =
        std::max(right.sigma_independent[element] * ratio, static_cast<float>(std::fabs(value) * unit));
    expectation.sigma_shared[element] = right.sigma_shared[element] * ratio;
    return;
  }
  expectation.sigma_independent[element] = static_cast<float>(std::fabs(value) * unit);
}

void set_moved(Expectation& expectation, std::size_t element, const Expectation& other, std::size_t from) {
  expectation.value[element] = other.value[from];
  if (other.sigma_independent.empty()) return;
  expectation.sigma_independent[element] = other.sigma_independent[from];
  expectation.sigma_shared[element] = other.sigma_shared[from];
}

std::string number_text(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

}  // namespace qdiff::explain

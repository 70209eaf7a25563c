#include "harness/explain/scene.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/sums.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

// An error that no rounding makes, in deviations.
constexpr double kNoRounding = 1e12;
// RMS of a row in deviations. Honest rows lie at 1 or below (compare/bounds_table.inc), so this only chooses where to
// look.
constexpr double kLooksWrong = 4.0;

}  // namespace

Scene::Scene(Oracle& oracle, const Precision& precision, std::vector<Instance> instances)
    : oracle_(oracle),
      precision_(precision),
      instances_(std::move(instances)),
      right_(instances_.size()),
      deviations_from_right_(instances_.size()),
      actual_(instances_.size()) {
  for (const Instance& instance : instances_) {
    layouts_.emplace_back(instance.key.id.op, instance.actual.shape, instance.step(), config());
  }
}

const Expectation& Scene::right(const Instance& instance) {
  std::optional<Expectation>& right = right_[index_of(instance)];
  if (!right) right = evaluate(instance, *instance.recorded);
  return *right;
}

const std::vector<double>& Scene::actual(const Instance& instance) {
  std::optional<std::vector<double>>& actual = actual_[index_of(instance)];
  if (!actual) actual = to_doubles(instance.actual);
  return *actual;
}

bool Scene::is_recorded(const Instance& instance, const TensorKey& key) const {
  if (key.step < 0 || key.step >= static_cast<int>(instance.steps->size()) || !instance.recorded->has(key)) {
    return false;
  }
  const Step& step = (*instance.steps)[static_cast<std::size_t>(key.step)];
  return compare::shape_fits(key.id.op, instance.recorded->get(key).shape, step, config());
}

std::optional<std::vector<double>> Scene::recorded(const Instance& instance, const TensorKey& key) const {
  if (!is_recorded(instance, key)) return std::nullopt;
  return to_doubles(instance.recorded->get(key));
}

Expectation Scene::evaluate(const Instance& instance, const TensorStore& recorded,
                            std::span<const TensorKey> operations, const std::vector<Step>* steps) {
  return oracle_.evaluate({.operations = operations,
                           .recorded = recorded,
                           .steps = steps == nullptr ? *instance.steps : *steps,
                           .precision = precision_,
                           .stored = instance.actual.dtype,
                           .capacity = instance.capacity,
                           .unwritten = instance.unwritten});
}

std::vector<double> Scene::value(const Instance& instance, const TensorStore& recorded,
                                 std::span<const TensorKey> operations, const std::vector<Step>* steps) {
  return oracle_
      .evaluate({.operations = operations,
                 .recorded = recorded,
                 .steps = steps == nullptr ? *instance.steps : *steps,
                 .precision = precision_,
                 .stored = instance.actual.dtype,
                 .capacity = instance.capacity,
                 .unwritten = instance.unwritten,
                 .with_noise = false})
      .value;
}

double Scene::deviation(const Instance& instance, const Expectation& expected, std::size_t element) const {
  const bool has_noise = !expected.sigma_independent.empty();
  const double independent = has_noise ? expected.sigma_independent[element] : 0.0;
  const double shared = has_noise ? expected.sigma_shared[element] : 0.0;
  return compare::deviation(independent, shared, spacing(instance.actual.dtype, expected.value[element]));
}

double Scene::deviations(const Instance& instance, const Expectation& expected, std::size_t element) {
  if (!expected.unknown.empty() && expected.unknown[element] != 0) return kNoRounding;
  const DType stored = instance.actual.dtype;
  const double candidate = actual(instance)[element];
  const double gold = expected.value[element];
  if (!std::isfinite(candidate) || !std::isfinite(gold)) {
    const bool same =
        candidate == gold || (std::isnan(candidate) && std::isnan(gold)) || candidate == round_to(stored, gold);
    return same ? 0.0 : kNoRounding;
  }
  const double z = std::fabs(candidate - gold) / deviation(instance, expected, element);
  return z <= kNoRounding ? z : kNoRounding;  // NaN is no rounding either
}

const std::vector<double>& Scene::deviations_from_right(const Instance& instance) {
  std::vector<double>& known = deviations_from_right_[index_of(instance)];
  const Expectation& expected = right(instance);
  while (known.size() < expected.value.size()) known.push_back(deviations(instance, expected, known.size()));
  return known;
}

bool Scene::is_wrong(const Instance& instance, std::size_t element) {
  return deviations_from_right(instance)[element] > kBeyondRounding;
}

std::vector<std::int64_t> Scene::real_rows(const Instance& instance) const {
  const compare::Layout& rows = layout(instance);
  std::vector<std::int64_t> real;
  for (std::int64_t r = 0; r < rows.num_rows(); ++r) {
    if (rows.counts(r)) real.push_back(r);
  }
  return real;
}

std::vector<std::int64_t> Scene::wrong_rows(const Instance& instance) {
  std::vector<std::int64_t> wrong;
  if (!instance.wrong) return wrong;
  const std::vector<double>& from_right = deviations_from_right(instance);
  const std::int64_t width = layout(instance).num_columns();
  for (std::int64_t r : real_rows(instance)) {
    double sum = 0.0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double z = from_right[static_cast<std::size_t>(r * width + c)];
      sum += z * z;
    }
    if (!(sum <= kLooksWrong * kLooksWrong * static_cast<double>(width))) wrong.push_back(r);
  }
  // Where only some elements are wrong, or all of them a little, no row stands out.
  return wrong.empty() ? real_rows(instance) : wrong;
}

}  // namespace qdiff::explain

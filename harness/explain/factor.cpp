// y = c * right code's, with one c for the tensor or one for each head. c is the regression of y on right code's value,
// weighted by the expected rounding, over the wrong elements: the factor may be one of some columns.
#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <span>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

struct Sums {
  double gold_actual = 0.0;
  double gold_gold = 0.0;
};

std::vector<double> shortened(double value) {
  std::vector<double> values;
  for (int digits : {1, 2, 3, 6}) {
    const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(std::fabs(value))));
    values.push_back(std::round(value * unit) / unit);
  }
  return values;
}

Candidate by_factors(Scene& scene, const std::vector<double>& factors, double bits, const std::string& words) {
  Candidate candidate = candidate_of(scene, "factor", bits, " is right code's times " + words);
  if (scene.layout(scene.instances().front()).is_scores()) candidate.theory.hypothesis = "H02";
  if (arithmetic_of(scene.op()) == Arithmetic::kNorm) candidate.theory.hypothesis = "H09";
  for (std::size_t h = 0; h < factors.size(); ++h) {
    const std::string name = factors.size() == 1 ? "factor" : "factor of head " + std::to_string(h);
    candidate.theory.parameters.emplace_back(name, factors[h]);
  }
  candidate.predict = [&scene, factors](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    const compare::Layout& layout = scene.layout(instance);
    Expectation theory = blank(right);
    const double unit = unit_roundoff(scene.precision().accumulate);
    const std::int64_t width = layout.num_columns();
    for (std::size_t i = 0; i < right.value.size(); ++i) {
      const auto element = static_cast<std::int64_t>(i);
      std::size_t head = 0;
      if (factors.size() > 1) {
        head = static_cast<std::size_t>(layout.is_scores() ? layout.head_of(element / width)
                                                           : element % width / layout.head_columns());
      }
      set_scaled(theory, i, right, factors[head] * right.value[i], unit);
    }
    return theory;
  };
  return candidate;
}

// An element that a cap made smaller, in magnitudes.
struct Capped {
  double gold, actual, deviation;
};

// The cap near `median` under which the elements come nearest, by ternary search: a stored value far below the cap says
// little of it, but there are many.
double refined_cap(const std::vector<Capped>& elements, double median) {
  const auto misfit = [&](double log_cap) {
    const double cap = std::exp(log_cap);
    double sum = 0.0;
    for (const Capped& element : elements) {
      const double z = (element.actual - cap * std::tanh(element.gold / cap)) / element.deviation;
      sum += z * z;
    }
    return sum;
  };
  double low = std::log(0.5 * median), high = std::log(2.0 * median);
  for (int i = 0; i < 40; ++i) {
    const double left = (2.0 * low + high) / 3.0, right = (low + 2.0 * high) / 3.0;
    const bool in_left = misfit(left) < misfit(right);
    (in_left ? high : low) = in_left ? right : left;
  }
  return std::exp(0.5 * (low + high));
}

Candidate with_soft_cap(Scene& scene, double cap, int digits) {
  const std::string text = number_text(cap);
  Candidate candidate = candidate_of(scene, "soft_cap", bits_of_digits(digits),
                                     " is " + text + " * tanh(x / " + text + ") of right code's x");
  candidate.theory.parameters = {{"cap", cap}};
  candidate.predict = [&scene, cap](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    Expectation theory = right;
    const double rounding = 4.0 * unit_roundoff(scene.precision().accumulate);  // of tanh and the two products
    for (std::size_t i = 0; i < right.value.size(); ++i) {
      if (!std::isfinite(right.value[i])) continue;
      theory.value[i] = cap * std::tanh(right.value[i] / cap);
      if (right.sigma_independent.empty()) continue;
      theory.sigma_independent[i] =
          std::hypot(theory.sigma_independent[i], static_cast<float>(rounding * std::fabs(theory.value[i])));
    }
    return theory;
  };
  return candidate;
}

// y = c * tanh(g / c), as logits are capped in Gemma 2. tanh(x) < x, so that each element far enough from 0 gives c by
// bisection; the median of the largest ones is where the search for c begins.
void add_soft_cap(Scene& scene, std::vector<Candidate>& candidates) {
  std::vector<Capped> elements;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 16)) {
    const std::int64_t width = scene.layout(*sampled.instance).num_columns();
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      const Expectation& right = scene.right(*sampled.instance);
      const double gold = right.value[i], actual = scene.actual(*sampled.instance)[i];
      if (!scene.is_wrong(*sampled.instance, i)) continue;
      if (std::isfinite(gold) && gold * actual > 0.0 && std::fabs(actual) < std::fabs(gold)) {
        const double deviation = std::hypot(spacing(sampled.instance->actual.dtype, actual),
                                            right.sigma_independent.empty() ? 0.0 : right.sigma_independent[i]);
        elements.push_back({std::fabs(gold), std::fabs(actual), deviation});
      }
    }
  }
  if (elements.empty()) return;
  constexpr std::size_t kLargest = 15, kRefined = 4096;
  std::ranges::sort(elements, std::greater{}, &Capped::gold);
  elements.resize(std::min(kRefined, elements.size()));
  std::vector<double> caps;
  for (const Capped& element : std::span(elements).first(std::min(kLargest, elements.size()))) {
    double low = element.actual, high = 1e6 * element.gold;
    for (int i = 0; i < 100; ++i) {
      const double cap = std::sqrt(low * high);
      (cap * std::tanh(element.gold / cap) < element.actual ? low : high) = cap;
    }
    caps.push_back(low);
  }
  std::sort(caps.begin(), caps.end());
  // A cap far below all values would leave their signs alone. The largest value may be an outlier of a thousand times
  // the others.
  constexpr double kLeastShare = 1e-5;
  if (!(caps[caps.size() / 2] >= kLeastShare * elements.front().gold)) return;
  // Far above the values, those that stand out as wrong were rounded downwards and pull the refined one down.
  const double median = caps[caps.size() / 2];
  std::set<double> tried;
  for (const double fitted : {median, refined_cap(elements, median)}) {
    for (int digits : {1, 2, 3}) {
      const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(fitted)));
      const double cap = std::round(fitted * unit) / unit;
      if (tried.insert(cap).second) candidates.push_back(with_soft_cap(scene, cap, digits));
    }
  }
}

// y = g between -c and c: wrong elements are c or -c.
void add_clip(Scene& scene, std::vector<Candidate>& candidates) {
  double least = HUGE_VAL, largest = 0.0;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 16)) {
    const std::int64_t width = scene.layout(*sampled.instance).num_columns();
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      if (!scene.is_wrong(*sampled.instance, i)) continue;
      const double actual = std::fabs(scene.actual(*sampled.instance)[i]);
      least = std::min(least, actual);
      largest = std::max(largest, actual);
    }
  }
  if (!(least == largest) || !(largest > 0.0) || !std::isfinite(largest)) return;
  const std::string text = number_text(largest);
  Candidate candidate = candidate_of(scene, "clip", bits_of_digits(3), " is kept between -" + text + " and " + text);
  candidate.theory.parameters = {{"limit", largest}};
  candidate.predict = [&scene, limit = largest](const Instance& instance) -> std::optional<Expectation> {
    Expectation theory = scene.right(instance);
    for (double& value : theory.value) value = std::clamp(value, -limit, limit);
    return theory;
  };
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_factor(Scene& scene) {
  std::vector<Candidate> candidates;
  const auto heads =
      static_cast<std::size_t>(std::max<std::int64_t>(1, scene.layout(scene.instances()[0]).num_heads()));
  std::vector<Sums> sums(heads);
  Sums all;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 64)) {
    const compare::Layout& layout = scene.layout(*sampled.instance);
    const Expectation& right = scene.right(*sampled.instance);
    const std::vector<double>& actual = scene.actual(*sampled.instance);
    const std::int64_t width = layout.num_columns();
    for (std::int64_t c = 0; c < width; ++c) {
      const auto i = static_cast<std::size_t>(sampled.row * width + c);
      const double gold = right.value[i];
      if (!std::isfinite(gold) || !std::isfinite(actual[i]) || gold == 0.0) continue;
      if (!scene.is_wrong(*sampled.instance, i)) continue;
      const double spread = spacing(sampled.instance->actual.dtype, gold) +
                            (right.sigma_independent.empty() ? 0.0 : right.sigma_independent[i]);
      const double weight = 1.0 / (spread * spread);
      const std::size_t head = heads == 1 ? 0
                                          : static_cast<std::size_t>(layout.is_scores() ? layout.head_of(sampled.row)
                                                                                        : c / layout.head_columns());
      sums[head].gold_actual += weight * gold * actual[i];
      sums[head].gold_gold += weight * gold * gold;
      all.gold_actual += weight * gold * actual[i];
      all.gold_gold += weight * gold * gold;
    }
  }
  if (!(all.gold_gold > 0.0)) return candidates;
  if (!scene.layout(scene.instances().front()).is_scores()) add_clip(scene, candidates);
  const double factor = all.gold_actual / all.gold_gold;
  if (!std::isfinite(factor) || factor == 0.0) return candidates;
  const auto root = std::sqrt(static_cast<double>(scene.config().hidden));
  const auto dimension = std::sqrt(static_cast<double>(scene.config().head_dim));
  struct Known {
    double value;
    const char* words;
  };
  // What a person would have written; they only make the number shorter to say.
  for (const Known& known :
       {Known{root, "the root of the hidden size"}, Known{1.0 / root, "1 / root of the hidden size"},
        Known{dimension, "the root of the head dimension"}, Known{1.0 / dimension, "1 / root of the head dimension"}}) {
    if (std::fabs(known.value / factor - 1.0) < 0.01) {
      candidates.push_back(by_factors(scene, {known.value}, 4.0, known.words + (", " + number_text(known.value))));
    }
  }
  int digits = 1;
  for (double value : shortened(factor)) {
    candidates.push_back(by_factors(scene, {value}, bits_of_digits(digits), number_text(value)));
    digits = digits == 3 ? 6 : digits + 1;
  }
  if (!scene.right(scene.instances().front()).exact) add_soft_cap(scene, candidates);
  if (heads > 1) {
    std::vector<double> of_heads;
    for (const Sums& head : sums) of_heads.push_back(head.gold_gold > 0.0 ? head.gold_actual / head.gold_gold : 1.0);
    // One head alone may be scaled: the scope says which.
    const double farthest = *std::max_element(of_heads.begin(), of_heads.end(), [](double a, double b) {
      return std::fabs(std::log(std::fabs(a))) < std::fabs(std::log(std::fabs(b)));
    });
    if (std::isfinite(farthest) && farthest != 0.0) {
      for (double value : shortened(farthest)) {
        candidates.push_back(by_factors(scene, {value}, bits_of_digits(4), number_text(value)));
      }
    }
    candidates.push_back(
        by_factors(scene, of_heads, bits_of_digits(6) * static_cast<double>(heads), "a factor for each head"));
  }
  return candidates;
}

}  // namespace qdiff::explain

#include "harness/explain/accept.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "harness/compare/judge.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

// An error of the theory's is at least this share of a spacing where the stored value itself says no more; without, an
// element that matches to the bit would have no deviation to be measured in.
constexpr float kShareOfSpacing = 1e-3F;

// How many times as wide as right code's the theory's own rounding is, where it is wider. A theory that scatters the
// elements says little of any of them, so its errors are counted in right code's deviations.
double width_beside(const Scene& scene, const Instance& instance, const Expectation& right, const Expectation& theory,
                    std::size_t element) {
  const double ratio = scene.deviation(instance, theory, element) / scene.deviation(instance, right, element);
  return ratio > 1.0 ? ratio : 1.0;  // NaN is no width
}

Gains gains_of(Scene& scene, const Instance& instance, const Expectation& theory) {
  const Expectation& right = scene.right(instance);
  const std::vector<double>& from_right = scene.deviations_from_right(instance);
  Gains gains{&instance, std::vector<float>(right.value.size(), 0.0F)};
  for (std::size_t i = 0; i < right.value.size(); ++i) {
    if (!theory.unknown.empty() && theory.unknown[i] != 0) continue;
    if (theory.value[i] == right.value[i]) continue;  // both say the same
    double error = scene.deviations(instance, theory, i);
    if (error != 0.0) error *= width_beside(scene, instance, right, theory, i);
    gains.of_element[i] = static_cast<float>(bits_of_error(from_right[i]) - bits_of_error(error));
  }
  return gains;
}

// What the best run of columns of each row, or the best whole columns, gain. Of most theories that is next to nothing.
double best_slices(const Gains& gains, std::int64_t width) {
  std::vector<double> columns(static_cast<std::size_t>(width));
  double in_rows = 0.0, in_columns = 0.0;
  for (std::size_t start = 0; start < gains.of_element.size(); start += columns.size()) {
    double run = 0.0, best = 0.0;  // the largest sum of neighbours (Kadane's algorithm)
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const double gain = gains.of_element[start + c];
      columns[c] += gain;
      run = std::max(run + gain, 0.0);
      best = std::max(best, run);
    }
    in_rows += best;
  }
  for (double column : columns) in_columns += std::max(column, 0.0);
  return std::max(in_rows, in_columns);
}

void fill_noise(Expectation& expectation, DType stored) {
  if (!expectation.sigma_independent.empty()) return;
  expectation.sigma_independent.resize(expectation.value.size());
  expectation.sigma_shared.resize(expectation.value.size());
  for (std::size_t i = 0; i < expectation.value.size(); ++i) {
    const double value = expectation.value[i];
    if (std::isfinite(value) && value != 0.0) {
      expectation.sigma_independent[i] = kShareOfSpacing * static_cast<float>(spacing(stored, value));
    }
  }
}

// A scope without one of its choices: where a theory and right code say nearly the same, as of the slowest pairs of a
// rotation, rounding decides which of them describes better.
std::vector<Domain> wider(const Domain& best) {
  std::vector<Domain> domains;
  for (std::size_t axis = kNumAxes; axis-- > 0;) {
    if (best.choices[axis].kind == Choice::Kind::kAll) continue;
    domains.push_back(best);
    domains.back().choices[axis] = {};
  }
  return domains;
}

// The phase of the wrong tensors, where the theory says nothing of those of the other one, and they are right.
Choice phase_spoken_of(Scene& scene, const std::vector<std::optional<Expectation>>& predicted) {
  std::set<Phase> spoken_of, wrong;
  for (const Instance& instance : scene.instances()) {
    if (predicted[scene.index_of(instance)]) spoken_of.insert(instance.step().phase);
    if (instance.wrong) wrong.insert(instance.step().phase);
  }
  if (spoken_of.size() != 1 || spoken_of != wrong) return {};
  const bool others = std::ranges::any_of(
      scene.instances(), [&](const Instance& instance) { return !spoken_of.contains(instance.step().phase); });
  if (!others) return {};
  return only_in(*wrong.begin());
}

// Where nothing is left to compare, as in scores of which every one is hidden: whether the candidate holds just that.
bool holds_exactly(Scene& scene, const Instance& instance, const Expectation& expected) {
  const compare::Layout& layout = scene.layout(instance);
  const auto width = static_cast<std::size_t>(layout.num_columns());
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (!layout.counts(r)) continue;
    for (std::size_t i = static_cast<std::size_t>(r) * width, end = i + width; i < end; ++i) {
      if (scene.deviations(instance, expected, i) != 0.0) return false;
    }
  }
  return true;
}

// It refers to all that it is given.
compare::Comparison comparison(Scene& scene, const Instance& instance, const Expectation& expected,
                               std::span<const TensorKey> operations) {
  return {.op = instance.key.id.op,
          .actual = instance.actual,
          .expected = expected,
          .step = instance.step(),
          .precision = scene.precision(),
          .config = scene.config(),
          .operations = operations};
}

compare::Outcome judged(Scene& scene, const Candidate& candidate, const Instance& instance,
                        const Expectation& expected) {
  const std::vector<TensorKey> operations = candidate.operations ? candidate.operations(instance) : instance.span;
  return compare::judge(comparison(scene, instance, expected, operations)).outcome;
}

// Nothing where the theory does not say what the tensor holds.
std::optional<Expectation> predicted_by(Scene& scene, const Candidate& candidate, const Instance& instance) {
  std::optional<Expectation> of = candidate.predict(instance);
  if (of && of->value.size() != scene.right(instance).value.size()) of.reset();
  return of;
}

const Instance* cheapest_wrong(const Scene& scene) {
  const Instance* smallest = nullptr;
  for (const Instance& instance : scene.instances()) {
    if (!instance.wrong) continue;
    const auto size = [](const Instance& of) { return num_elements(of.actual.shape); };
    if (smallest == nullptr || size(instance) < size(*smallest)) smallest = &instance;
  }
  return smallest;
}

}  // namespace

Expectation mixed(Scene& scene, const Instance& instance, const Expectation& theory, const Domain& domain) {
  Expectation expected = scene.right(instance);
  Expectation here = theory;
  const DType stored = instance.actual.dtype;
  expected.exact = expected.exact && theory.exact;
  if (!expected.exact) {
    fill_noise(expected, stored);
    fill_noise(here, stored);
  }
  const compare::Layout& layout = scene.layout(instance);
  const Inside inside(instance, layout, domain);
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    const std::span<const std::uint8_t> columns = inside.of_row(r);
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const std::size_t i = static_cast<std::size_t>(r * layout.num_columns()) + c;
      if (columns[c] == 0 || (!here.unknown.empty() && here.unknown[i] != 0)) continue;
      expected.value[i] = here.value[i];
      if (expected.exact) continue;
      expected.sigma_independent[i] = here.sigma_independent[i];
      expected.sigma_shared[i] = here.sigma_shared[i];
    }
  }
  return expected;
}

std::optional<Theory> accept(Scene& scene, const Candidate& candidate) {
  std::vector<Gains> gains;
  std::vector<std::optional<Expectation>> predicted(scene.instances().size());
  // The wrong tensors refute most theories before anything else is evaluated, and one element of the smallest does.
  const Instance* smallest = cheapest_wrong(scene);
  if (smallest != nullptr) {
    std::optional<Expectation>& of = predicted[scene.index_of(*smallest)];
    of = predicted_by(scene, candidate, *smallest);
    if (!of || compare::misses_both(comparison(scene, *smallest, scene.right(*smallest), smallest->span), *of)) {
      return std::nullopt;
    }
  }
  const auto add = [&](bool wrong) {
    double gained = 0.0;
    for (const Instance& instance : scene.instances()) {
      if (instance.wrong != wrong) continue;
      std::optional<Expectation>& of = predicted[scene.index_of(instance)];
      if (&instance != smallest) of = predicted_by(scene, candidate, instance);
      if (!of) continue;
      gains.push_back(gains_of(scene, instance, *of));
      gained += best_slices(gains.back(), scene.layout(instance).num_columns());
    }
    return gained;
  };
  if (!(add(true) > candidate.theory.bits + kMargin)) return std::nullopt;
  add(false);
  // Whether every tensor fits the theory inside the scope and right code outside it.
  const auto fits = [&](const Domain& domain) {
    for (const bool wrong : {true, false}) {
      for (const Instance& instance : scene.instances()) {
        const std::optional<Expectation>& of = predicted[scene.index_of(instance)];
        if (instance.wrong != wrong) continue;
        if (!of) {
          if (wrong) return false;
          continue;
        }
        const Expectation expected = mixed(scene, instance, *of, domain);
        const compare::Outcome outcome = judged(scene, candidate, instance, expected);
        if (outcome == compare::Outcome::kMatch) continue;
        if (outcome != compare::Outcome::kUnjudged) return false;
        if (wrong && !holds_exactly(scene, instance, expected)) return false;
      }
    }
    return true;
  };
  const Choice phase = phase_spoken_of(scene, predicted);
  const auto within = [&](Domain domain) -> std::optional<Theory> {
    Choice& of_phase = domain.choices[static_cast<std::size_t>(Axis::kPhase)];
    if (of_phase.kind == Choice::Kind::kAll) of_phase = phase;
    // Columns here and there of one token are what any damage to some elements looks like.
    const bool scattered = domain.choices[static_cast<std::size_t>(Axis::kColumn)].kind == Choice::Kind::kOnly;
    const std::int64_t least_tokens =
        std::max({candidate.least_tokens, scene.least_tokens(), std::int64_t{scattered ? 2 : 1}});
    Theory theory = candidate.theory;
    theory.bits += domain.bits();
    theory.evidence = gain_within(scene, gains, domain);
    if (!(theory.evidence - theory.bits >= kMargin)) return std::nullopt;
    if (least_tokens > 1 && tokens_gained(scene, gains, domain, kMargin) < least_tokens) return std::nullopt;
    if (!fits(domain)) return std::nullopt;
    const Facts derived = domain.facts();
    theory.scope.insert(theory.scope.end(), derived.begin(), derived.end());
    theory.sentence += domain.words(scene.op());
    return theory;
  };
  const std::vector<Domain> domains = derive_domains(scene, gains);
  std::optional<Theory> shortest;
  for (const Domain& domain : domains) {
    std::optional<Theory> theory = within(domain);
    if (theory && (!shortest || theory->bits < shortest->bits)) shortest = std::move(theory);
  }
  if (shortest) return shortest;
  for (const Domain& domain : wider(domains.front())) {
    if (auto theory = within(domain)) return theory;
  }
  return std::nullopt;
}

}  // namespace qdiff::explain

#include "harness/diagnose/attribution.h"

#include <algorithm>
#include <cmath>

namespace qdiff::diagnose {

using compare::Outcome;

Expectation evaluate(Oracle& oracle, const Subject& subject, const RowJudgement& row, const Precision& precision,
                     const Variant* variant) {
  return oracle.evaluate({.operations = row.span,
                          .recorded = *subject.inputs,
                          .steps = subject.input->steps,
                          .precision = precision,
                          .stored = subject.candidate->get(row.key).dtype,
                          .variant = variant});
}

std::vector<Variant> doses(const VariantFacts& facts) {
  if (facts.values.empty()) return {{facts.id, std::nullopt}};
  std::vector<Variant> variants;
  for (double value : facts.values) variants.push_back({facts.id, value});
  return variants;
}

bool concerns(const VariantFacts& facts, std::span<const TensorKey> span) {
  return std::any_of(span.begin(), span.end(), [&](const TensorKey& key) {
    return std::find(facts.ops.begin(), facts.ops.end(), key.id.op) != facts.ops.end();
  });
}

namespace {

compare::Judgement judge_as(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                            const Variant& variant) {
  const Expectation wrong = evaluate(oracle, *row.subject, row, precision, &variant);
  const TensorView actual = row.subject->candidate->get(row.key);
  const Step& step = row.subject->input->steps[static_cast<std::size_t>(row.key.step)];
  const compare::Comparison comparison{.op = row.key.id.op,
                                       .actual = actual,
                                       .expected = wrong,
                                       .step = step,
                                       .precision = precision,
                                       .config = oracle.config(),
                                       .operations = row.span};
  return compare::judge(comparison);
}

double to_digits(double value, int digits) {
  const double unit = std::pow(10.0, digits - 1 - std::floor(std::log10(value)));
  return std::round(value * unit) / unit;
}

// The minimum of `error` between `left` and `right`, where it falls and then rises (Kiefer 1953).
template <typename Error>
double golden_section(double left, double right, Error error) {
  const double golden = 0.6180339887498949;
  constexpr int kSections = 40;  // narrows the bracket by 4e-9
  double inner_left = right - golden * (right - left);
  double inner_right = left + golden * (right - left);
  double error_left = error(inner_left);
  double error_right = error(inner_right);
  for (int i = 0; i < kSections; ++i) {
    if (error_left < error_right) {
      right = inner_right;
      inner_right = inner_left;
      error_right = error_left;
      inner_left = right - golden * (right - left);
      error_left = error(inner_left);
    } else {
      left = inner_left;
      inner_left = inner_right;
      error_left = error_right;
      inner_right = left + golden * (right - left);
      error_right = error(inner_right);
    }
  }
  return 0.5 * (left + right);
}

// The value of a continuous parameter that comes nearest to what the candidate computed at one row, searched over
// logarithms: the best of a grid around the listed and the right values by RMS error, refined between its neighbours,
// and once more by the largest excess. That is convex near the truth and, where results are rounded to 16 bits, far
// sharper than the RMS, which the rounding dominates.
double fit_value(Oracle& oracle, const RowJudgement& row, const Precision& precision, const VariantFacts& facts) {
  auto statistics_at = [&](double log_value) {
    return judge_as(oracle, row, precision, {facts.id, std::exp(log_value)}).statistics;
  };
  auto finite = [](double error) { return std::isfinite(error) ? error : HUGE_VAL; };
  auto rms_at = [&](double log_value) { return finite(statistics_at(log_value).rms); };
  auto excess_at = [&](double log_value) { return finite(statistics_at(log_value).max_excess); };
  double low = std::log(*facts.right_value);
  double high = low;
  for (double value : facts.values) {
    if (!(value > 0.0)) continue;
    low = std::min(low, std::log(value));
    high = std::max(high, std::log(value));
  }
  constexpr int kGrid = 24;
  constexpr double kRoom = 2.302585092994046;  // a factor of ten beyond the values listed
  const double step = (high - low + 2.0 * kRoom) / kGrid;
  double best = std::log(*facts.right_value);  // small doses lie near it, where the grid may be too coarse
  double best_error = rms_at(best);
  for (int i = 0; i <= kGrid; ++i) {
    const double candidate = low - kRoom + i * step;
    const double error = rms_at(candidate);
    if (error < best_error) {
      best_error = error;
      best = candidate;
    }
  }
  best = golden_section(best - step, best + step, rms_at);
  constexpr double kNear = 0.02;  // far more than the RMS leaves open
  return std::exp(golden_section(best - kNear, best + kNear, excess_at));
}

bool fits_everywhere(Oracle& oracle, const std::vector<const RowJudgement*>& rows, const Precision& precision,
                     const VariantFacts& facts, const Variant& variant) {
  return std::all_of(rows.begin(), rows.end(), [&](const RowJudgement* row) {
    // A row that the variant leaves alone must simply be right.
    if (!concerns(facts, row->span)) return row->judgement.outcome == Outcome::kMatch;
    return judge_as(oracle, *row, precision, variant).outcome == Outcome::kMatch;
  });
}

}  // namespace

std::vector<Variant> fitting_variants(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                      const Precision& precision) {
  // The diverged rows first: they refute most variants at once.
  std::vector<const RowJudgement*> ordered;
  for (const RowJudgement& row : rows) {
    if (row.judgement.outcome == Outcome::kDiverged) ordered.push_back(&row);
  }
  for (const RowJudgement& row : rows) {
    if (row.judgement.outcome == Outcome::kMatch) ordered.push_back(&row);
  }
  std::vector<Variant> fits;
  if (ordered.empty() || ordered.front()->judgement.outcome != Outcome::kDiverged) return fits;
  for (const VariantFacts& facts : oracle.catalogue()) {
    std::vector<Variant> variants = doses(facts);
    auto fits_all = [&](const Variant& variant) { return fits_everywhere(oracle, ordered, precision, facts, variant); };
    auto found = std::find_if(variants.begin(), variants.end(), fits_all);
    if (found == variants.end() && facts.right_value && concerns(facts, ordered.front()->span)) {
      // Fitted where there is most to fit, among the diverged rows.
      const RowJudgement* row = *std::max_element(ordered.begin(), ordered.end(), [](const auto* a, const auto* b) {
        auto weight = [](const RowJudgement* judged) {
          const bool diverged = judged->judgement.outcome == Outcome::kDiverged;
          return diverged ? judged->judgement.statistics.elements_compared : 0;
        };
        return weight(a) < weight(b);
      });
      const double fitted = fit_value(oracle, *row, precision, facts);
      // Rounding of the candidate leaves the fit a little off, and somebody typed the value: short numbers come first.
      variants.clear();
      for (int digits = 2; digits <= 7; ++digits) variants.push_back({facts.id, to_digits(fitted, digits)});
      variants.push_back({facts.id, fitted});
      found = std::find_if(variants.begin(), variants.end(), fits_all);
    }
    if (found != variants.end()) fits.push_back(*found);
  }
  std::sort(fits.begin(), fits.end(), [](const Variant& a, const Variant& b) { return a.id < b.id; });
  return fits;
}

std::string hypothesis_of(const std::string& variant_id) {
  return variant_id.starts_with('H') ? variant_id.substr(0, variant_id.find('.')) : std::string();
}

compare::Explanation explanation_of(const std::vector<Variant>& fits) {
  compare::Explanation explanation;
  if (fits.empty()) return explanation;
  const std::string hypothesis = hypothesis_of(fits.front().id);
  const bool tie =
      std::any_of(fits.begin(), fits.end(), [&](const Variant& fit) { return hypothesis_of(fit.id) != hypothesis; });
  if (!hypothesis.empty()) explanation.hypothesis = hypothesis;
  explanation.variant = fits.front().id;
  explanation.value = fits.front().value;
  explanation.verdict = tie ? compare::HypothesisVerdict::kConsistent : compare::HypothesisVerdict::kConfirmed;
  for (std::size_t i = 1; i < fits.size(); ++i) explanation.alternatives.push_back(fits[i].id);
  return explanation;
}

}  // namespace qdiff::diagnose

#include "harness/diagnose/free_run.h"

#include <cmath>

namespace qdiff::diagnose {
namespace {

// ||actual - expected|| / ||expected|| over the rows that are no padding.
double relative_rms(const TensorView& actual, const TensorView& expected, const Step& step) {
  const std::int64_t width = actual.shape.back();
  double error = 0.0;
  double norm = 0.0;
  for (std::int64_t i = 0; i < num_elements(actual.shape); ++i) {
    const std::int64_t token = i / width;
    if (step.is_pad(token / step.num_tokens(), token % step.num_tokens())) continue;
    const double a = load_element(actual.data, actual.dtype, static_cast<std::size_t>(i));
    const double e = load_element(expected.data, expected.dtype, static_cast<std::size_t>(i));
    error += (a - e) * (a - e);
    norm += e * e;
  }
  return norm > 0.0 ? std::sqrt(error / norm) : std::sqrt(error);
}

// The row of the logits that stands behind the last token of row `b`; engines may hand out no others.
std::int64_t last_row(const TensorView& logits, std::int64_t b) { return (b + 1) * logits.shape[1] - 1; }

double logit(const TensorView& logits, std::int64_t row, std::int64_t token) {
  return load_element(logits.data, logits.dtype, static_cast<std::size_t>(row * logits.shape.back() + token));
}

// What both choose behind the last token of each step, row by row.
class Choices {
 public:
  void add(const TensorView& actual, const TensorView& expected, const Step& step) {
    const std::int64_t vocab = expected.shape.back();
    rows_.resize(static_cast<std::size_t>(expected.shape[0]));
    for (std::size_t b = 0; b < rows_.size(); ++b) {
      Row& row = rows_[b];
      if (row.differs || step.is_pad(static_cast<std::int64_t>(b), step.num_tokens() - 1)) continue;
      row.step = step.index;
      const std::int64_t in_actual = last_row(actual, static_cast<std::int64_t>(b));
      const std::int64_t in_expected = last_row(expected, static_cast<std::int64_t>(b));
      row.actual.push_back(top_token(actual, in_actual, vocab));
      row.expected.push_back(top_token(expected, in_expected, vocab));
      row.differs = row.actual.back() != row.expected.back();
      if (!row.differs || row.actual.back() < 0 || row.expected.back() < 0) continue;
      row.margin = logit(expected, in_expected, row.expected.back()) - logit(expected, in_expected, row.actual.back());
    }
  }

  void put_into(findings::FreeRun& figures) const {
    const Row* shown = nullptr;
    for (const Row& row : rows_) {
      if (shown == nullptr || (row.differs && (!shown->differs || row.step < shown->step))) shown = &row;
    }
    if (shown == nullptr) return;
    figures.row = shown - rows_.data();
    figures.step = shown->step;
    figures.expected_tokens = shown->expected;
    figures.actual_tokens = shown->actual;
    figures.margin = shown->margin;
  }

 private:
  struct Row {
    std::vector<std::int64_t> expected = {}, actual = {};
    std::optional<double> margin = {};
    int step = 0;
    bool differs = false;
  };
  std::vector<Row> rows_;
};

void compare_logits(const TensorView& actual, const TensorView& expected, const Step& step, const ModelConfig& config,
                    findings::FreeRun& figures) {
  figures.logits_relative_rms_error = relative_rms(actual, expected, step);
  for (std::int64_t row = 0; row < step.batch() * step.num_tokens(); ++row) {
    if (step.is_pad(row / step.num_tokens(), row % step.num_tokens())) continue;
    ++figures.tokens_compared;
    const std::int64_t choice = top_token(actual, row, config.vocab);
    if (choice >= 0 && choice == top_token(expected, row, config.vocab)) ++figures.same_top_token;
  }
}

}  // namespace

std::int64_t top_token(const TensorView& logits, std::int64_t row, std::int64_t vocab) {
  std::int64_t best = -1;
  double best_value = 0.0;
  for (std::int64_t v = 0; v < vocab; ++v) {
    const double value = load_element(logits.data, logits.dtype, static_cast<std::size_t>(row * vocab + v));
    if (std::isnan(value)) return -1;  // no choice can be made
    if (best < 0 || value > best_value) {
      best_value = value;
      best = v;
    }
  }
  return best;
}

std::optional<findings::FedTokens> fed_tokens(const std::vector<Step>& steps, const std::set<int>& judged,
                                              const TensorStore& candidate, const ModelConfig& config) {
  findings::FedTokens fed;
  for (std::size_t s = 1; s < steps.size(); ++s) {
    const Step& before = steps[s - 1];
    const TensorKey head{before.index, {Op::kLmHead}};
    if (steps[s].phase != Phase::kDecode || !judged.contains(before.index) || !candidate.has(head)) continue;
    const TensorView logits = candidate.get(head);
    const Shape all = {before.batch(), before.num_tokens(), config.vocab}, last = {before.batch(), 1, config.vocab};
    if (logits.shape != all && logits.shape != last) continue;
    for (std::int64_t row = 0; row < before.batch(); ++row) {
      if (before.is_pad(row, before.num_tokens() - 1)) continue;
      const std::int64_t chosen = top_token(logits, last_row(logits, row), config.vocab);
      if (chosen < 0) continue;
      const std::int64_t token = steps[s].tokens[static_cast<std::size_t>(row)].front();
      ++fed.compared;
      if (token == chosen || fed.not_chosen++ > 0) continue;
      fed.step = steps[s].index;
      fed.row = row;
      fed.fed = token;
      fed.chosen = chosen;
    }
  }
  return fed.compared > 0 ? std::optional(fed) : std::nullopt;
}

findings::FreeRun free_run_figures(const std::string& case_id, const std::vector<Step>& steps,
                                   const TensorStore& candidate, const ReferenceChain& chain,
                                   const ModelConfig& config) {
  findings::FreeRun figures;
  Choices choices;
  figures.case_id = case_id;
  for (const Step& step : steps) {
    const auto s = static_cast<std::size_t>(step.index);
    if (s >= chain.residual.size()) break;
    const std::vector<Tensor>& residual = chain.residual[s];
    for (std::size_t layer = 0; layer + 1 < residual.size(); ++layer) {
      const TensorKey key{step.index, {Op::kOutput, static_cast<int>(layer)}};
      if (!candidate.has(key) || candidate.get(key).shape != residual[layer + 1].shape()) continue;
      if (figures.residual_relative_rms_error.size() <= layer) figures.residual_relative_rms_error.resize(layer + 1);
      double& worst = figures.residual_relative_rms_error[layer];
      const double error = relative_rms(candidate.get(key), residual[layer + 1].view(), step);
      if (!std::isnan(worst) && !(error <= worst)) worst = error;  // a NaN stays
    }
    const TensorKey head{step.index, {Op::kLmHead}};
    if (chain.logits[s].size() == 0 || !candidate.has(head)) continue;
    const TensorView logits = candidate.get(head), expected = chain.logits[s].view();
    const Shape last_of_each = {step.batch(), 1, config.vocab};
    if (logits.shape == expected.shape) compare_logits(logits, expected, step, config, figures);
    if (logits.shape == expected.shape || logits.shape == last_of_each) choices.add(logits, expected, step);
  }
  choices.put_into(figures);
  return figures;
}

}  // namespace qdiff::diagnose

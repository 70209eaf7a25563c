#include "harness/diagnose/reconcile/predictions.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/decode.h"
#include "harness/contract/error.h"
#include "harness/diagnose/far/log_sum_exp.h"

namespace qdiff::diagnose {
namespace {

struct Sequences {
  std::vector<std::vector<std::int32_t>> tokens;    // by row of the batch, without pads
  std::map<TokenPlace, LogitsPlace> logits_before;  // of a token, where they were recorded
};

Sequences sequences_of(const trace::Trace& trace) {
  Sequences sequences;
  const std::vector<Step>& steps = trace.manifest().steps;
  sequences.tokens.resize(static_cast<std::size_t>(steps.front().batch()));
  for (const Step& step : steps) {
    const TensorKey key{step.index, {Op::kLmHead}};
    const bool recorded = trace.has(key);
    const bool of_all_tokens = recorded && trace.shape(key)[1] == step.num_tokens();
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      std::vector<std::int32_t>& row = sequences.tokens[static_cast<std::size_t>(b)];
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        if (step.is_pad(b, t)) continue;
        row.push_back(step.tokens[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)]);
        const bool is_last = t == step.num_tokens() - 1;
        if (recorded && (of_all_tokens || is_last)) {
          sequences.logits_before[{b, static_cast<std::int64_t>(row.size())}] = {step.index, b, t};
        }
      }
    }
  }
  return sequences;
}

void check_same_tokens(const Sequences& a, const Sequences& b) {
  if (a.tokens.size() != b.tokens.size()) {
    throw InputError("A has " + std::to_string(a.tokens.size()) + " rows of tokens and B has " +
                     std::to_string(b.tokens.size()) + "; record both on the same batch");
  }
  for (std::size_t row = 0; row < a.tokens.size(); ++row) {
    const std::vector<std::int32_t>&in_a = a.tokens[row], &in_b = b.tokens[row];
    const auto [at_a, at_b] = std::ranges::mismatch(in_a, in_b);
    if (at_a == in_a.end() || at_b == in_b.end()) continue;
    throw InputError("A and B have other tokens: at index " + std::to_string(at_a - in_a.begin()) + " of row " +
                     std::to_string(row) + " (pads not counted) A has " + std::to_string(*at_a) + " and B has " +
                     std::to_string(*at_b) + "; record both on the same tokens");
  }
}

}  // namespace

std::vector<Prediction> common_predictions(const trace::Trace& a, const trace::Trace& b,
                                           std::vector<std::string>& notes) {
  const Sequences in_a = sequences_of(a), in_b = sequences_of(b);
  check_same_tokens(in_a, in_b);
  std::int64_t only_one = 0;
  for (std::size_t row = 0; row < in_a.tokens.size(); ++row) {
    only_one += std::abs(std::ssize(in_a.tokens[row]) - std::ssize(in_b.tokens[row]));
  }
  if (only_one > 0) {
    notes.push_back("one trace goes on behind the other's end by " + std::to_string(only_one) +
                    " tokens, which are not reconciled");
  }
  std::vector<Prediction> predictions;
  for (const auto& [place, logits] : in_a.logits_before) {
    const auto other = in_b.logits_before.find(place);
    const auto row = static_cast<std::size_t>(place.batch_row);
    const std::int64_t end = std::min(std::ssize(in_a.tokens[row]), std::ssize(in_b.tokens[row]));
    if (other == in_b.logits_before.end() || place.index >= end) continue;  // nothing is predicted behind the last
    predictions.push_back({place, in_a.tokens[row][static_cast<std::size_t>(place.index)], logits, other->second});
  }
  return predictions;
}

std::vector<double> row_at(const TensorView& tensor, const LogitsPlace& place, std::int64_t num_tokens) {
  const std::int64_t columns = tensor.shape.back();
  const std::int64_t row =
      tensor.shape[1] == num_tokens ? place.batch_row * num_tokens + place.token_row : place.batch_row;
  std::vector<double> values(static_cast<std::size_t>(columns));
  compare::load_elements(tensor, static_cast<std::size_t>(row * columns), values);
  return values;
}

double log_probability(std::span<const double> logits, std::int32_t token) {
  return logits[static_cast<std::size_t>(token)] - log_sum_exp(logits);
}

double sensitivity(std::span<const double> logits, std::int32_t token) {
  const double all = log_sum_exp(logits);
  double others = 0.0, rest = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (i == static_cast<std::size_t>(token)) continue;
    const double p = std::exp(logits[i] - all);
    rest += p;
    others += p * p;
  }
  return std::sqrt(rest * rest + others);
}

}  // namespace qdiff::diagnose

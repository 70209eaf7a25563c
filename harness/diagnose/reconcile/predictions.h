// Which tokens of a trace its logits predict, and with which log-probability. Two traces of the same tokens may be cut
// into steps and padded otherwise, so a token is known by its row and its place in the row's sequence.
#pragma once

#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/contract/step.h"
#include "harness/contract/tensor.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::diagnose {

struct TokenPlace {
  std::int64_t batch_row = 0;
  std::int64_t index = 0;  // without pads
  auto operator<=>(const TokenPlace&) const = default;
};

// Where the logits stand that predict a token: those of the token before it.
struct LogitsPlace {
  int step = 0;
  std::int64_t batch_row = 0;
  std::int64_t token_row = 0;  // within the step
};

struct Prediction {
  TokenPlace place;
  std::int32_t token = 0;
  LogitsPlace a, b;
};

// Throws InputError where the two have other numbers of rows or other tokens at the same place. Where one goes on
// behind the other's end, that is said in `notes`.
std::vector<Prediction> common_predictions(const trace::Trace& a, const trace::Trace& b,
                                           std::vector<std::string>& notes);

// The row of a tensor [B,T,columns], or of logits [B,1,vocab], which are the last token's alone.
std::vector<double> row_at(const TensorView& tensor, const LogitsPlace& place, std::int64_t num_tokens);

// In nats; NaN where there is NaN among the logits.
double log_probability(std::span<const double> logits, std::int32_t token);
// How far independent errors of deviation 1 in all logits move it: |e_token - p|, where p are the probabilities.
double sensitivity(std::span<const double> logits, std::int32_t token);

}  // namespace qdiff::diagnose

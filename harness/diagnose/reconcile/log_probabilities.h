// What rounding does to the log-probabilities of tokens, and to the residual stream before them, measured on whole
// forward passes of the reference: in float64, and several that round as an engine declares, each in a way of its own.
//
// A few passes are few draws of one number, so the error of the logits themselves is measured too, of which a row has
// many, and what errors of that size do to the token's log-probability: it is given the larger of the two. No row is
// given less than its like show in the mean, nor less than an engine that adds one product after the other
// (far/rows.h).
#pragma once

#include <cstdint>
#include <vector>

#include "harness/diagnose/far/planting.h"
#include "harness/diagnose/reconcile/predictions.h"

namespace qdiff::diagnose {

// A token, where the logits of the row stand that predict it, and in which type the engine stored them.
struct PredictedToken {
  LogitsPlace logits;
  std::int32_t token = 0;
  DType stored = DType::kF32;
};

// The reference in float64.
struct ExpectedToken {
  double log_probability = 0.0;
  double sensitivity = 0.0;                       // of it to errors of the logits (predictions.h)
  double mean_square = 0.0;                       // of the logits
  std::vector<double> sample = {};                // some of them, evenly spread
  std::vector<std::vector<double>> streams = {};  // of the residual stream behind each layer, the same
};

// What an engine's roundings do.
struct Roundings {
  std::vector<double> tokens;   // the deviation of each log-probability; infinite where right code overflows
  std::vector<double> streams;  // by layer: ||rounded - exact|| / ||exact|| of its output, over all tokens
};

// The columns of a row that are compared.
std::vector<double> stream_sample(std::span<const double> row);

class LogProbabilities {
 public:
  LogProbabilities(const CaseInput& input, const ModelConfig& config, const ReferenceMaker& make_reference,
                   const ProgressReport& progress);

  // Both throw InputError where the reference cannot run the steps.
  std::vector<ExpectedToken> expected(const std::vector<PredictedToken>& tokens, DType weights) const;
  Roundings roundings(const std::vector<PredictedToken>& tokens, const std::vector<ExpectedToken>& expected,
                      const Precision& precision) const;

 private:
  using Use = std::function<void(std::size_t token, std::span<const double> row)>;
  using UseStream = std::function<void(std::size_t token, std::size_t layer, std::span<const double> row)>;
  void walk_tokens(const std::vector<PredictedToken>& tokens, Engine& engine, std::vector<Pass> passes,
                   const std::string& what, const Use& use_logits, const UseStream& use_stream) const;

  const CaseInput& input_;
  const ModelConfig& config_;
  const ReferenceMaker& make_reference_;
  const ProgressReport& progress_;
};

}  // namespace qdiff::diagnose

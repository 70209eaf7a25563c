// The judge: one recorded tensor against what it should have been.
//
// No tolerance is picked by hand. An Expectation brings gold and the error that correct rounding makes there; the judge
// asks whether the error seen is explained by it, by several statistics, each against a bound measured on honest
// implementations (bounds.h). docs/architecture.md describes the procedure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"

namespace qdiff::compare {

enum class Outcome : std::uint8_t {
  kMatch,
  kDiverged,
  kInconclusive,  // beyond the worst honest value seen, but not by enough to be sure
  kUnjudged,      // nothing could be compared; `reason` says why. Never counted as a match
};

// In units of the expected rounding error, so that a correct engine sits near 1 or below. All are 0 where nothing
// was compared.
struct Statistics {
  std::int64_t elements_compared = 0;
  double max_excess = 0.0;       // largest max(0, |error| - half a spacing of the stored dtype) / sigma
  double rms = 0.0;              // root mean square of error / sqrt(sigma^2 + spacing^2 / 12) over the tensor
  double worst_slice_rms = 0.0;  // the same over the worst slice: token row, head, channel, tile
  std::string worst_slice;       // "token row 3 of batch row 0", "head 5", "columns 768..895"
  double bias = 0.0;             // largest |mean error| of the tensor or a slice, against its expected deviation
  double slope = 0.0;            // |regression of error on gold|, against its expected deviation
  double max_abs_error = 0.0;
  double relative_rms_error = 0.0;        // ||actual - expected|| / ||expected||
  double share_beyond_one_spacing = 0.0;  // share of elements further than one spacing from gold
};

struct Judgement {
  Outcome outcome = Outcome::kUnjudged;
  std::string reason;  // one sentence; for kMatch the largest statistic beside its bound
  // The statistic closest to (or furthest beyond) its bound, and the ratio of the two; 0 for hard gates.
  std::string decisive_statistic;
  double ratio_to_bound = 0.0;
  Statistics statistics;
  std::vector<std::int64_t> worst_index;  // of the element with the largest excess; empty where none differs
  double actual = 0.0;
  double expected = 0.0;
};

struct Comparison {
  Op op;
  const TensorView& actual;  // host memory
  const Expectation& expected;
  const Step& step;  // its pads are not compared
  // The largest magnitude-independent facts the judge needs of the declaration: which points are rounded coarsely.
  const Precision& precision;
};

// Throws nothing for any content of `actual`; a wrong shape or dtype is an outcome, not an error.
Judgement judge(const Comparison& comparison);

// Whether every recorded input of these operations that counts (pads aside) is free of NaN; a row whose inputs hold
// NaN is left unjudged, for its cause is upstream. `where` receives the name of the first tensor that holds one.
bool inputs_are_finite(std::span<const TensorKey> operations, const TensorStore& recorded,
                       const std::vector<Step>& steps, const ModelConfig& config, std::string* where);

// The operations to evaluate, in order, so that `target` follows from recorded tensors alone: the target's own row
// and, before it, the rows of every input that the candidate did not record, back to recorded ones (or to the tokens).
std::vector<TensorKey> replay_span(const TensorKey& target, const TensorStore& recorded, const ModelConfig& config);

// The last recorded tensor before `target` that the span starts from, as the report's `span` names it; a span with
// nothing recorded before it starts at model.embed_tokens.
TensorId span_start(std::span<const TensorKey> operations, const TensorStore& recorded, const ModelConfig& config);

}  // namespace qdiff::compare

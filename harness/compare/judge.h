// The judge: one recorded tensor against what it should have been.
//
// No tolerance is picked by hand. An Expectation brings gold and the error that correct rounding makes there; the judge
// asks whether the error seen is explained by it, by several statistics, each against a bound measured on honest
// implementations (bounds.h). docs/architecture.md describes the procedure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/config.h"
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

// What is measured on a tensor and held against a bound. slices.h gives the formulas.
enum class Statistic : std::uint8_t { kMaxExcess, kRms, kSliceRms, kBias, kSlope, kShareBeyond };
inline constexpr std::size_t kNumStatistics = 6;
constexpr std::string_view name(Statistic statistic) {
  constexpr std::array<std::string_view, kNumStatistics> kNames = {"max_excess", "rms",   "worst_slice_rms",
                                                                   "bias",       "slope", "share_beyond_one_spacing"};
  return kNames[static_cast<std::size_t>(statistic)];
}

// For a sentence: the name of a statistic or of a gate, in words that need no glossary. `bias` is the mean error here,
// and a reader of an engine's report would think of q's, k's and v's.
std::string in_words(std::string_view statistic);

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
  // By Statistic: each of the above divided by what chance allows for so many elements and slices (slices.h). These
  // are what bounds.h bounds, and what calibration measures.
  std::array<double, kNumStatistics> normalised{};
};

struct Judgement {
  Outcome outcome = Outcome::kUnjudged;
  std::string reason;  // one sentence; for kMatch the largest statistic beside its bound
  // The statistic closest to (or furthest beyond) its bound, and the ratio of the two. Where a hard gate decided, the
  // gate's name ("shape", "values" for exact rows, "non_finite", "mask", "all_zero", "unknown_rounding") and 0.
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
  const Step& step;            // its pads are not compared
  const Precision& precision;  // declared; decides when a stand-in for a masked score is as good as -inf
  const ModelConfig& config;   // for shapes and heads
  // The rows that the expectation spans (replay_span); empty: `op` alone. Expectations that come from an ensemble (long
  // spans, inputs that the engine used before it rounded them) have bounds of their own.
  std::span<const TensorKey> operations = {};
};

// Whether these rows are `op` alone or a fusion that engines usually make, for which the oracle has a closed form: a
// projection with its bias, attention from q and k on, and data that only moves (cache writes, the embedding) before
// either. Anything else is a long span.
bool is_usual_fusion(std::span<const TensorKey> operations);

// Whether the oracle measured the expected rounding on an ensemble instead of deriving it.
bool from_ensemble(const Comparison& comparison);

// What a statistic's ratio to its bound means: at most 1 a match, at most kDivergedRatio (bounds.h) inconclusive, all
// else, NaN included, diverged.
Outcome outcome_of(double ratio_to_bound);

// Throws nothing for any content of `actual`; a wrong shape or dtype is an outcome, not an error. Throws
// std::invalid_argument where the call itself is wrong: `actual` not in host memory, or `expected` not of the shape
// that op, step and config give. lm_head may hold the last row alone ([B,1,V]), in `actual` or in both.
Judgement judge(const Comparison& comparison);

// Whether some element lies so far from this expectation, and from another one of the same row, that no tensor which
// holds it matches an expectation that takes each element from either. One look tells of most theories that none of
// their scopes can be right. False where either only moves data. Throws as judge() does.
bool misses_both(const Comparison& comparison, const Expectation& other);

// Two of the statistics alone, of the tensor as a whole: what a search asks of hundreds of expectations, at a fraction
// of what a judgement costs. 0 where nothing can be compared. Throws as judge() does.
struct Distance {
  double rms = 0.0;
  double max_excess = 0.0;
  bool beyond_numbers = false;  // one of the two has an infinity, a NaN or a score that masks, and the other has not
};
Distance distance_of(const Comparison& comparison);

// The first recorded input from which a row cannot be judged: of a shape that its step does not give it, or with NaN in
// what counts (pads aside). Nothing where all recorded inputs are usable.
struct Unusable {
  TensorKey input;
  std::string why;  // "its recorded input model.norm holds NaN"
};
std::optional<Unusable> what_is_unusable(std::span<const TensorKey> operations, const TensorStore& recorded,
                                         const std::vector<Step>& steps, const ModelConfig& config);

// The operations to evaluate, in order, so that `target` follows from recorded tensors alone: the target's own row
// and, before it, the rows of every input that the candidate did not record, back to recorded ones (or to the tokens).
std::vector<TensorKey> replay_span(const TensorKey& target, const TensorStore& recorded, const ModelConfig& config);

// The recorded tensors that these operations read, in execution order.
std::set<TensorKey> recorded_inputs(std::span<const TensorKey> operations, const TensorStore& recorded,
                                    const ModelConfig& config);

// The last recorded tensor before `target` that the span starts from, as the report's `span` names it; a span with
// nothing recorded before it starts at model.embed_tokens.
TensorId span_start(std::span<const TensorKey> operations, const TensorStore& recorded, const ModelConfig& config);

}  // namespace qdiff::compare

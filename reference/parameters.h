// What an operation is told beside its inputs. Right code is what these structures say by default and what
// right_parameters() fills in from the model's config; a known bug is a change to them (faults/fault.h).
// A function that is null leaves the right operation in its place.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/dtype.h"
#include "harness/contract/step.h"
#include "reference/rounding.h"
#include "reference/torch.h"

namespace qdiff::reference {

class WeightStore;
struct WeightForm;
struct Setting;
using Tensors = std::vector<at::Tensor>;

struct NormRule {
  double eps = 0.0;
  double power = 0.5;          // of the mean square that x is divided by
  bool subtract_mean = false;  // from x
  // (x, weight, rule, rounding) in the place of rms_norm.
  std::function<at::Tensor(const at::Tensor&, const at::Tensor&, const NormRule&, const Rounding&)> norm;
};

struct ProjectionRule {
  std::string named;  // another weight of the file; empty: the row's own
  // Another matrix, in the form asked for.
  std::function<at::Tensor(WeightStore&, const WeightForm&)> weight;
  std::function<at::Tensor(const at::Tensor&)> input;   // rearranges the input's columns
  std::function<at::Tensor(const at::Tensor&)> output;  // rearranges the product's elements
  std::optional<std::int64_t> unknown_from;             // of the columns from here on nothing is expected
  std::optional<DType> result_type;                     // the product is rounded to it
  std::int64_t bf16_sum_block = 0;                      // so many products between two roundings of the sum to bf16
  std::int64_t in_place_columns = 0;                    // so many columns at a time are stored over the input
  bool in_place_rows = false;                           // each token's row is stored into the input's memory
};

struct RopeRule {
  double theta = 0.0;
  std::optional<std::vector<std::vector<std::int64_t>>> positions;  // [B][T]; none: the step's own
  // (x [B,T,heads,d], angles [B,T,d], row, setting) in the place of rope.
  std::function<at::Tensor(const at::Tensor&, const at::Tensor&, Op, const Setting&)> rope;
};

struct SlotRange {
  std::int64_t first = 0;
  std::int64_t last = 0;  // less than `first`: nothing is visible
};

// Which queries a softmax is taken for, and in which type.
struct SoftmaxPlace {
  const Step& step;
  std::int64_t copies;       // of the batch
  std::int64_t first_query;  // token of the step
  DType accumulate;
};

struct Softmaxed {
  at::Tensor probs;    // [B,H,T,S]
  at::Tensor unknown;  // bool, [B,H,T,1]: rows of which nothing is expected; undefined: none
};

struct AttentionRule {
  double scale = 0.0;                 // of the scores: d^-1/2
  double scale_after = 1.0;           // of the probabilities
  std::vector<std::int64_t> kv_head;  // [H]: the key/value head that each query head reads
  std::function<SlotRange(std::int64_t b, std::int64_t t)> visible;  // slots that query t of row b sees
  bool inverted = false;                                             // it sees exactly the others
  double hidden_score = -std::numeric_limits<double>::infinity();
  // (scores [B,H,T,S], place) in the place of softmax.
  std::function<Softmaxed(const at::Tensor&, const SoftmaxPlace&)> softmax;
  std::optional<DType> sum_type;  // in which that softmax keeps its running sum
  // (cache [B,S,K,d], of keys or of values) gives what is attended to instead.
  std::function<at::Tensor(const at::Tensor&, Op, const Setting&)> slots;
};

// A cache as its reader sees it.
struct CacheView {
  at::Tensor slots;    // [B, S, K, d]; 0 where nobody wrote
  at::Tensor unknown;  // bool, the same shape: where nobody wrote; undefined: nowhere
};

struct Parameters {
  NormRule norm;
  ProjectionRule projection;
  RopeRule rope;
  AttentionRule attention;
  // (right bias [n], row, setting) gives what broadcasts to [B,T,n] and is added instead; undefined: nothing.
  std::function<at::Tensor(const at::Tensor&, Op, const Setting&)> bias;
  std::function<CacheView(Op, const Setting&)> cache;
  std::function<Tensors(const Tensors&, const Setting&)> inputs;  // others than the row's own
  bool silu = true;
  std::int64_t token_offset = 0;    // added to every token id, modulo the vocabulary
  std::optional<int> weight_layer;  // whose weights are taken; none: those of the row's own layer
};

Parameters right_parameters(const ModelConfig& config);

}  // namespace qdiff::reference

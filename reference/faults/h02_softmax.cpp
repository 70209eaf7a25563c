// H02: the softmax of attention. Right is softmax(q k^T d^-1/2) with the row maximum subtracted, in fp32 or better
// (eager_attention_forward in modeling_qwen2.py; Milakov & Gimelshein 2018 for the online form).
#include <cmath>
#include <limits>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void scale(Parameters& parameters, const Place&, double factor) { parameters.attention.scale *= factor; }
void no_scale(Parameters& parameters, const Place&, double) { parameters.attention.scale = 1.0; }
void scale_hidden(Parameters& parameters, const Place& place, double) {
  parameters.attention.scale = 1.0 / std::sqrt(static_cast<double>(place.config.hidden));
}
void scale_twice(Parameters& parameters, const Place&, double) {
  parameters.attention.scale *= parameters.attention.scale;
}
void scale_after(Parameters& parameters, const Place& place, double) {
  if (place.op == Op::kScores) {
    parameters.attention.scale = 1.0;
  } else {
    parameters.attention.scale_after = right_parameters(place.config).attention.scale;
  }
}

void no_max(Parameters& parameters, const Place&, double) {
  parameters.attention.softmax = [](const at::Tensor& scores, const SoftmaxPlace& place) {
    const DTypeFacts type = facts(place.accumulate);
    const double overflow = (type.max_exponent + 1) * std::log(2.0);
    const double underflow = (type.min_exponent - type.significant_bits) * std::log(2.0);
    const at::Tensor weights =
        at::exp(scores).masked_fill(scores.gt(overflow), kInfinity).masked_fill(scores.lt(underflow), 0.0);
    // inf / inf is NaN, as in the engine. Where all weights are subnormal, or nothing at all, it is the machine's mode
    // and the engine's last division that decide.
    const double subnormal = type.min_exponent * std::log(2.0);
    // Close below overflow it is whether the weights are divided before the values are summed, or after.
    constexpr double kRoomForValues = 8.0;
    const at::Tensor maximum = at::amax(scores, -1, /*keepdim=*/true);
    const at::Tensor nearly = maximum.gt(overflow - kRoomForValues).logical_and(maximum.le(overflow));
    // A subnormal weight holds fewer bits the smaller it is, or is flushed to 0.
    const at::Tensor imprecise = scores.gt(underflow - std::log(2.0)).logical_and(scores.lt(subnormal));
    const at::Tensor coarse = imprecise.any(-1, /*keepdim=*/true).logical_and(maximum.le(overflow));
    const at::Tensor unknown = maximum.lt(subnormal).logical_or(nearly).logical_or(coarse);
    return Softmaxed{weights / weights.sum(-1, /*keepdim=*/true), unknown};
  };
}

at::Tensor weights_of(const at::Tensor& scores) {
  const at::Tensor maximum = at::amax(scores, -1, /*keepdim=*/true);
  return at::exp(scores - maximum.masked_fill(at::isneginf(maximum), 0.0));
}

void sum_fp16(Parameters& parameters, const Place&, double) {
  parameters.attention.sum_type = DType::kF16;
  parameters.attention.softmax = [](const at::Tensor& scores, const SoftmaxPlace&) {
    const at::Tensor weights = weights_of(scores);
    at::Tensor sum = at::zeros_like(weights.narrow(-1, 0, 1));
    for (std::int64_t slot = 0; slot < weights.size(-1); ++slot) {
      sum = round_to(DType::kF16, sum + weights.narrow(-1, slot, 1));
    }
    return Softmaxed{weights / sum, {}};
  };
}

// Tile of each slot, counted from the row's first real one: [copies * B, 1, 1, S].
at::Tensor tile_of_slots(const SoftmaxPlace& place, std::int64_t slots, std::int64_t tile) {
  const at::Tensor first = at::tensor(place.step.left_padding, of_type(at::kLong)).view({-1, 1, 1, 1});
  return (at::arange(slots, of_type(at::kLong)) - first)
      .clamp_min(0)
      .div(tile, "floor")
      .repeat({place.copies, 1, 1, 1});
}

void tile_max(Parameters& parameters, const Place&, double value) {
  const std::int64_t tile = std::llround(value);
  parameters.attention.softmax = [tile](const at::Tensor& scores, const SoftmaxPlace& place) {
    const at::Tensor tiles = tile_of_slots(place, scores.size(-1), tile);
    at::Tensor maximum = at::full_like(scores.narrow(-1, 0, 1), -kInfinity);
    at::Tensor weights = at::zeros_like(scores);
    for (std::int64_t i = 0; i * tile < scores.size(-1); ++i) {
      const at::Tensor others = tiles.ne(i);
      maximum = at::maximum(maximum, at::amax(scores.masked_fill(others, -kInfinity), -1, true));
      const at::Tensor here = at::exp(scores - maximum.masked_fill(at::isneginf(maximum), 0.0));
      weights = weights + here.masked_fill(others, 0.0);
    }
    const at::Tensor sum = weights.sum(-1, true);
    return Softmaxed{weights / sum.masked_fill(sum.eq(0.0), 1.0), {}};
  };
}

void tail_zero(Parameters& parameters, const Place&, double value) {
  const std::int64_t tile = std::llround(value);
  parameters.attention.softmax = [tile](const at::Tensor& scores, const SoftmaxPlace& place) {
    // Slots behind S in the last tile that each query reaches: [copies * B, 1, T, 1].
    const std::int64_t queries = scores.size(-2), length = place.step.valid_length();
    std::vector<double> behind;
    for (std::int64_t b = 0; b < place.step.batch(); ++b) {
      const std::int64_t first = place.step.left_padding[static_cast<std::size_t>(b)];
      for (std::int64_t q = 0; q < queries; ++q) {
        const std::int64_t slot = place.step.past_length + place.first_query + q;
        const std::int64_t end = slot < first ? 0 : first + ((slot - first) / tile + 1) * tile;
        behind.push_back(static_cast<double>(std::max<std::int64_t>(0, end - length)));
      }
    }
    const at::Tensor extra = at::tensor(behind, of_type(at::kDouble))
                                 .view({-1, 1, queries, 1})
                                 .repeat({place.copies, 1, 1, 1})
                                 .to(scores.scalar_type());
    const at::Tensor own = at::amax(scores, -1, true);
    const at::Tensor maximum = at::where(extra.gt(0.0), own.clamp_min(0.0), own);
    const at::Tensor shift = maximum.masked_fill(at::isneginf(maximum), 0.0);
    const at::Tensor weights = at::exp(scores - shift);
    // Far below 0 the exponential overflows: where there is no such slot it must not count, not even 0 times.
    const at::Tensor behind_sum = (extra * at::exp(-shift)).masked_fill(extra.eq(0.0), 0.0);
    const at::Tensor sum = weights.sum(-1, true) + behind_sum;
    return Softmaxed{weights / sum.masked_fill(sum.eq(0.0), 1.0), {}};
  };
}

double one(const ModelConfig&) { return 1.0; }

}  // namespace

std::vector<FaultEntry> softmax_faults() {
  const std::vector<Op> scores = {Op::kScores}, probs = {Op::kProbs};
  const std::string differ = "several visible slots, with scores that differ";
  return {
      {{"H02.scale", "the scores' scale is d^-1/2 times the value",
        "eager_attention_forward in modeling_qwen2.py has exactly head_dim ** -0.5", scores, differ},
       {1.01},
       scale,
       one},
      {{"H02.no_scale", "the scores are not scaled", "q not divided before a fused attention that expects it", scores,
        differ},
       {},
       no_scale},
      {{"H02.scale_hidden", "the scale is D^-1/2 instead of d^-1/2", "hidden size taken for the head's", scores,
        differ},
       {},
       scale_hidden},
      {{"H02.scale_twice", "the scale is 1/d: applied to q and again to q k^T", "q scaled before a kernel that scales",
        scores, differ},
       {},
       scale_twice},
      {{"H02.scale_after",
        "softmax(q k^T) d^-1/2: the probabilities are scaled",
        "the scale outside the softmax",
        {Op::kScores, Op::kProbs},
        differ},
       {},
       scale_after},
      {{"H02.no_max", "exp without subtracting the row's maximum", "a softmax as the textbook writes it", probs,
        "scores above 88 in fp32, above 11 in fp16"},
       {},
       no_max},
      {{"H02.sum_fp16", "the denominator is a running sum in fp16, which sticks at 2048", "tract#2586", probs,
        "long rows of like scores"},
       {},
       sum_fp16},
      {{.id = "H02.qk_fp16",
        .what = "q k^T is rounded to fp16 before the scale; beyond 65504 it is infinite",
        .source = "llama.cpp#9595, #10232, #8412",
        .ops = scores,
        .shows_when = "q k^T with more than 11 significant bits",
        .declares = DeclarablePoint{RoundingPoint::kAttentionScores, DType::kF16}},
       {},
       nullptr},
      {{"H02.tile_max", "online softmax does not rescale earlier key tiles when the maximum grows",
        "the correction factor left out (Milakov & Gimelshein 2018, line 5)", probs, "more slots than a tile"},
       {64.0, 128.0, 32.0, 16.0},
       tile_max},
      {{"H02.tail_zero", "key slots behind the end of the last tile count as score 0", "flashinfer#5090", probs,
        "a length that is no multiple of the tile"},
       {64.0, 128.0, 32.0, 16.0},
       tail_zero},
  };
}

}  // namespace qdiff::reference

// Wrong scales and softmaxes of attention. Right is softmax(q k^T d^-1/2) with the row maximum subtracted, in fp32 or
// better (eager_attention_forward in modeling_qwen2.py; Milakov & Gimelshein 2018 for the online form).
#include <cmath>
#include <limits>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Softmaxed softmax_without_maximum(const at::Tensor& scores, const SoftmaxPlace& place) {
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
  return {weights / weights.sum(-1, /*keepdim=*/true), unknown};
}

Softmaxed softmax_with_fp16_sum(const at::Tensor& scores, const SoftmaxPlace&) {
  const at::Tensor maximum = at::amax(scores, -1, /*keepdim=*/true);
  const at::Tensor weights = at::exp(scores - maximum.masked_fill(at::isneginf(maximum), 0.0));
  at::Tensor sum = at::zeros_like(weights.narrow(-1, 0, 1));
  for (std::int64_t slot = 0; slot < weights.size(-1); ++slot) {
    sum = round_to(DType::kF16, sum + weights.narrow(-1, slot, 1));
  }
  return {weights / sum, {}};
}

// Tile of each slot, counted from the row's first real one: [copies * B, 1, 1, S].
at::Tensor tile_of_slots(const SoftmaxPlace& place, std::int64_t slots, std::int64_t tile) {
  const at::Tensor first = at::tensor(place.step.left_padding, of_type(at::kLong)).view({-1, 1, 1, 1});
  return (at::arange(slots, of_type(at::kLong)) - first)
      .clamp_min(0)
      .div(tile, "floor")
      .repeat({place.copies, 1, 1, 1});
}

Softmaxed softmax_without_rescaling(const at::Tensor& scores, const SoftmaxPlace& place, std::int64_t tile) {
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
  return {weights / sum.masked_fill(sum.eq(0.0), 1.0), {}};
}

}  // namespace

void plant_score(Parameters& parameters, const Place& place, const Planting& planting) {
  const double right = parameters.attention.scale;
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kProbabilityScale && law.law == Law::kScaleOfScores) {
      parameters.attention.scale_after = right;
    } else if (law.parameter == Parameter::kScoreScale && law.law == Law::kTimes) {
      parameters.attention.scale = right * law.number;
    } else if (law.parameter == Parameter::kScoreScale && law.law == Law::kNumber) {
      parameters.attention.scale = law.number;
    } else if (law.parameter == Parameter::kScoreScale && law.law == Law::kHiddenToMinusHalf) {
      parameters.attention.scale = 1.0 / std::sqrt(static_cast<double>(place.config.hidden));
    } else if (law.parameter == Parameter::kScoreScale && law.law == Law::kSquared) {
      parameters.attention.scale = right * right;
    } else {
      unknown_law(law);
    }
  }
}

void plant_softmax(Parameters& parameters, const Place&, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kMaximum && law.law == Law::kLeftOut) {
      parameters.attention.softmax = softmax_without_maximum;
    } else if (law.parameter == Parameter::kDenominator && law.law == Law::kInF16) {
      parameters.attention.sum_type = DType::kF16;
      parameters.attention.softmax = softmax_with_fp16_sum;
    } else if (law.parameter == Parameter::kTileMaximum && law.law == Law::kNumber) {
      parameters.attention.softmax = [tile = std::llround(law.number)](const at::Tensor& scores,
                                                                       const SoftmaxPlace& at_place) {
        return softmax_without_rescaling(scores, at_place, tile);
      };
    } else {
      unknown_law(law);
    }
  }
}

}  // namespace qdiff::reference

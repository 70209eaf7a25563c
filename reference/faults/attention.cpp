// Which slots a query sees, of which head. Right: query t of row b stands in slot P + t and sees pad_b..P+t; head h
// reads key/value head h / G with G = H/K query heads to a group (Ainslie et al. 2023, "GQA"; repeat_kv in
// modeling_qwen2.py repeats each key/value head G times in place).
#include <algorithm>
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

using enum Op;

std::int64_t first_visible(const NumberedLaw& law, SlotRange right, const Step& step) {
  const std::int64_t number = std::llround(law.number);
  switch (law.law) {
    case Law::kNumber:
      return number;
    case Law::kAtLeast:
      return std::max(right.first, number);
    case Law::kStepStart:
      return std::max(right.first, step.past_length);
    case Law::kWindow:
      return std::max(right.first, right.last - number + 1);
    default:
      unknown_law(law);
  }
}

std::int64_t last_visible(const NumberedLaw& law, SlotRange right, const Step& step, std::int64_t token) {
  const std::int64_t step_end = step.valid_length() - 1;
  switch (law.law) {
    case Law::kPlus:
      return std::min<std::int64_t>(right.last + std::llround(law.number), step_end);
    case Law::kStepEnd:
      return step_end;
    case Law::kToken:
      return token;
    default:
      unknown_law(law);
  }
}

// Key and value of one slot more, where the cache has one.
template <typename Slot>
void attend_to_next(Parameters& parameters, const Place& place, Slot slot) {
  const Step* step = &place.step;
  parameters.attention.visible = [step](std::int64_t b, std::int64_t t) {
    return SlotRange{step->left_padding[static_cast<std::size_t>(b)], step->past_length + t + 1};
  };
  parameters.attention.slots = [slot](const at::Tensor& cache, Op op, const Setting& setting) {
    if (setting.around->is_full(setting.step)) return cache;
    return at::cat({cache, slot(cache.narrow(1, 0, 1), op, setting)}, 1);
  };
}

// Slots behind S in the last tile that each query reaches: [copies * B, 1, T, 1].
at::Tensor slots_behind(const SoftmaxPlace& place, std::int64_t queries, std::int64_t tile, at::ScalarType type) {
  std::vector<double> behind;
  for (std::int64_t b = 0; b < place.step.batch(); ++b) {
    const std::int64_t first = place.step.left_padding[static_cast<std::size_t>(b)];
    for (std::int64_t q = 0; q < queries; ++q) {
      const std::int64_t slot = place.step.past_length + place.first_query + q;
      const std::int64_t end = slot < first ? 0 : first + ((slot - first) / tile + 1) * tile;
      behind.push_back(static_cast<double>(std::max<std::int64_t>(0, end - place.step.valid_length())));
    }
  }
  return at::tensor(behind, of_type(at::kDouble)).view({-1, 1, queries, 1}).repeat({place.copies, 1, 1, 1}).to(type);
}

Softmaxed softmax_with_zero_tail(const at::Tensor& scores, const SoftmaxPlace& place, std::int64_t tile) {
  const at::Tensor extra = slots_behind(place, scores.size(-2), tile, scores.scalar_type());
  const at::Tensor own = at::amax(scores, -1, true);
  const at::Tensor maximum = at::where(extra.gt(0.0), own.clamp_min(0.0), own);
  const at::Tensor shift = maximum.masked_fill(at::isneginf(maximum), 0.0);
  const at::Tensor weights = at::exp(scores - shift);
  // Far below 0 the exponential overflows: where there is no such slot it must not count, not even 0 times.
  const at::Tensor behind_sum = (extra * at::exp(-shift)).masked_fill(extra.eq(0.0), 0.0);
  const at::Tensor sum = weights.sum(-1, true) + behind_sum;
  return {weights / sum.masked_fill(sum.eq(0.0), 1.0), {}};
}

}  // namespace

void plant_visible(Parameters& parameters, const Place& place, const Planting& planting) {
  std::vector<NumberedLaw> ends;
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kHiddenScore) {
      parameters.attention.hidden_score = law.number;
    } else {
      ends.push_back(law);
    }
  }
  if (ends.empty()) return;
  parameters.attention.visible = [step = &place.step, ends](std::int64_t b, std::int64_t t) {
    const SlotRange right{step->left_padding[static_cast<std::size_t>(b)], step->past_length + t};
    SlotRange range = right;
    for (const NumberedLaw& law : ends) {
      if (law.parameter == Parameter::kFirstVisible) range.first = first_visible(law, right, *step);
      if (law.parameter == Parameter::kLastVisible) range.last = last_visible(law, right, *step, t);
    }
    return range;
  };
}

void plant_beyond_end(Parameters& parameters, const Place& place, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kTileTail && law.law == Law::kNumber) {
      parameters.attention.softmax = [tile = std::llround(law.number)](const at::Tensor& scores,
                                                                       const SoftmaxPlace& at_place) {
        return softmax_with_zero_tail(scores, at_place, tile);
      };
    } else if (law.parameter == Parameter::kNextSlot && law.law == Law::kUnwritten) {
      attend_to_next(parameters, place, [value = law.number](const at::Tensor& like, Op, const Setting& setting) {
        return at::full_like(like, value == 0.0 ? setting.around->unwritten() : value);
      });
    } else if (law.parameter == Parameter::kNextSlot && law.law == Law::kCurrentToken) {
      attend_to_next(parameters, place, [](const at::Tensor& like, Op op, const Setting& setting) {
        const at::Tensor now = setting.tensor(op == kScores ? kKRope : kVProj);
        return setting.rounding.stored({op == kScores ? kKCache : kVCache, setting.layer}, now.view(like.sizes()));
      });
    } else {
      unknown_law(law);
    }
  }
}

void plant_heads(Parameters& parameters, const Place& place, const Planting& planting) {
  const ModelConfig& config = place.config;
  for (const NumberedLaw& law : planting.laws) {
    const std::int64_t number = std::llround(law.number);
    for (std::int64_t head = 0; head < config.num_q_heads; ++head) {
      std::int64_t& read = parameters.attention.kv_head[static_cast<std::size_t>(head)];
      switch (law.law) {
        case Law::kNumber:
          read = number;
          break;
        case Law::kModuloKvHeads:
          read = head % config.num_kv_heads;
          break;
        case Law::kDividedByKvHeads:
          read = head / config.num_kv_heads;
          break;
        case Law::kDividedByGroupPlus:
          read = head / std::max<std::int64_t>(1, config.group_size() + number);
          break;
        default:
          unknown_law(law);
      }
      read = std::min(read, config.num_kv_heads - 1);
    }
  }
}

}  // namespace qdiff::reference

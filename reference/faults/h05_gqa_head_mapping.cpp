// H05: query heads read the wrong key/value head. Right is head / G with G = H/K query heads to a group (Ainslie et al.
// 2023, "GQA"; repeat_kv in modeling_qwen2.py repeats each key/value head G times in place).
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "reference/faults/fault.h"

namespace qdiff::reference {
namespace {

template <typename F>
void map_heads(Parameters& parameters, const ModelConfig& config, F kv_head) {
  for (std::int64_t head = 0; head < config.num_q_heads; ++head) {
    parameters.attention.kv_head[static_cast<std::size_t>(head)] =
        std::min<std::int64_t>(kv_head(head), config.num_kv_heads - 1);
  }
}

void modulo(Parameters& parameters, const Place& place, double) {
  map_heads(parameters, place.config, [&](std::int64_t head) { return head % place.config.num_kv_heads; });
}

void divide_by_kv(Parameters& parameters, const Place& place, double) {
  map_heads(parameters, place.config, [&](std::int64_t head) { return head / place.config.num_kv_heads; });
}

void group_off_by_one(Parameters& parameters, const Place& place, double value) {
  if (value != 1.0 && value != -1.0) throw std::invalid_argument("H05.group_off_by_one takes the value 1 or -1");
  const std::int64_t group = std::max<std::int64_t>(1, place.config.group_size() + std::llround(value));
  map_heads(parameters, place.config, [&](std::int64_t head) { return head / group; });
}

void head_zero(Parameters& parameters, const Place& place, double) {
  map_heads(parameters, place.config, [](std::int64_t) { return 0; });
}

void prefill_only(Parameters& parameters, const Place& place, double value) {
  if (place.step.phase == Phase::kPrefill) modulo(parameters, place, value);
}

void decode_only(Parameters& parameters, const Place& place, double value) {
  if (place.step.phase == Phase::kDecode) modulo(parameters, place, value);
}

}  // namespace

std::vector<FaultEntry> gqa_head_mapping_faults() {
  const std::vector<Op> attention = {Op::kScores, Op::kAttnOutput};
  return {
      {{"H05.modulo", "query head h reads key/value head h % K",
        "key/value heads tiled (torch's repeat) where repeat_kv repeats each in place (repeat_interleave)", attention,
        "1 < K < H, and heads whose k or v differ"},
       {},
       modulo},
      {{"H05.divide_by_kv", "query head h reads key/value head h / K, clamped to K-1",
        "the divisor of the grouped index taken from the wrong head count", attention,
        "K > 1 and K differs from the group size H/K (64/8 cannot show it)"},
       {},
       divide_by_kv},
      {{"H05.group_off_by_one", "the group size is H/K + 1 (value -1: H/K - 1, at least 1), clamped to K-1",
        "rounding up H/K, or counting the group without its first member", attention, "K > 1"},
       {1.0, -1.0},
       group_off_by_one},
      {{"H05.head_zero", "every query head reads key/value head 0",
        "multi-query attention code (Shazeer 2019) run on a grouped model", attention, "K > 1"},
       {},
       head_zero},
      {{"H05.prefill_only", "head h reads h % K in prefill steps; decode is right",
        "prefill and decode kernels with head maps of their own", attention, "1 < K < H and a prefill step"},
       {},
       prefill_only},
      {{"H05.decode_only", "head h reads h % K in decode steps; prefill is right",
        "prefill and decode kernels with head maps of their own (candle-vllm#52)", attention,
        "1 < K < H and a decode step"},
       {},
       decode_only},
  };
}

}  // namespace qdiff::reference

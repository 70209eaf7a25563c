// A layer's cache as memory: who wrote which slot, and what a reader finds there. For faults of addresses (H01), of
// lengths (H08) and of what is stored (H03.after_cache).
#pragma once

#include <functional>

#include "reference/setting.h"

namespace qdiff::reference {

// Memory is [B][K][C] slots of d elements, counted in one row: (b * K + k) * C + slot.
struct CacheAddress {
  std::int64_t batch, kv_heads, capacity;
  std::int64_t operator()(std::int64_t b, std::int64_t k, std::int64_t slot) const {
    return (b * kv_heads + k) * capacity + slot;
  }
};

// A token about to be written.
struct TokenWrite {
  const Step& step;
  std::int64_t b, k, t;
  std::int64_t slot() const { return step.past_length + t; }
  bool is_pad() const { return step.is_pad(b, t); }
};

struct CacheRules {
  // Slot that a token is written to; negative: it is not written. Tokens are written step after step, in each in the
  // order batch row, head, token; what is written later stays.
  std::function<std::int64_t(const TokenWrite&, const CacheAddress&)> write;
  // Slot that a reader of (b, k, slot) looks into.
  std::function<std::int64_t(std::int64_t b, std::int64_t k, std::int64_t slot, const CacheAddress&)> read;
  // The tensor that step `step` wrote, [B,T,K,d] or [B,T,K*d]. Null: k_rope or v_proj of this layer.
  std::function<TensorKey(int step)> source;
};

// The right rules; pads write nothing.
CacheRules right_cache_rules();
// What the reader sees in slots 0..S-1 after the step of `setting`.
CacheView view_of_memory(Op op, const Setting& setting, const CacheRules& rules);

}  // namespace qdiff::reference

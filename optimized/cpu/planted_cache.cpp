// Addresses in the KV cache that go wrong (docs/faults.md, H01 and H08's writers).
#include <cstring>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

// The slot that the writer takes for a token of slot `right`.
std::int64_t written_slot(const LayerContext& s, const Planting<true>& planting, std::int64_t right) {
  if (s.step.phase != Phase::kDecode) return right;
  if (planting.is_any({FaultId::kWritePlusOne, FaultId::kLengthCountsCurrent})) {
    return std::min(right + 1, s.cache.layout.capacity - 1);
  }
  if (planting.is(FaultId::kWriteMinusOne)) return std::max<std::int64_t>(right - 1, 0);
  return right;
}

// Where the writer puts a token of the step. A flat slot counts d elements, from the start of the row's planes.
std::int64_t written_offset(const LayerContext& s, const Planting<true>& planting, std::int64_t b, std::int64_t kv_head,
                            std::int64_t t) {
  const KvCacheLayout& layout = s.cache.layout;
  const std::int64_t slot = s.step.past_length + t;
  if (planting.is(FaultId::kPadSlot) && s.is_pad(b, t)) {
    if (planting.whole_value() == 0) return layout.offset(s.layer, 0, kv_head, 0, 0);
    return layout.offset(s.layer, layout.batch - 1, kv_head, layout.capacity - 1, 0);
  }
  if (planting.is(FaultId::kHeadStrideIsTokens)) {
    return layout.offset(s.layer, b, 0, kv_head * s.step.num_tokens() + slot, 0);
  }
  if (planting.is(FaultId::kPosMajor)) return layout.offset(s.layer, b, 0, slot * layout.num_kv_heads + kv_head, 0);
  if (planting.is(FaultId::kBatchStrideOfOneToken)) {
    return layout.offset(s.layer, 0, kv_head, b * layout.num_kv_heads + slot, 0);
  }
  // These three are the reader's rule as well.
  return planted_read_offset(planting, layout, s.layer, b, kv_head, written_slot(s, planting, slot));
}

// Pads own slots but write nothing, except where the fault lets them.
bool writes_pads(const Planting<true>& planting) {
  if (planting.is(FaultId::kNoBatchStride)) return planting.whole_value() == 1;
  // A mask that shows the padding shows what its tokens wrote.
  return planting.is_any({FaultId::kPadSlot, FaultId::kPadVisible, FaultId::kPadQueryAxis, FaultId::kFiniteFp16});
}

// Key and value of one head of one token.
void write_head(const LayerContext& s, const Planting<true>& planting, std::int64_t b, std::int64_t kv_head,
                std::int64_t t) {
  const KvCacheLayout& layout = s.cache.layout;
  const auto bytes = static_cast<std::size_t>(s.config.head_dim * storage_bytes(s.storage));
  const std::int64_t token = b * s.step.num_tokens() + t;
  const std::int64_t source = (token * s.config.num_kv_heads + kv_head) * s.config.head_dim;
  const std::int64_t element = written_offset(s, planting, b, kv_head, t);
  const std::byte* keys = s.arena.tensor(planting.is(FaultId::kAfterCache) ? Op::kKProj : Op::kKRope);
  AlignedBuffer& values = planting.is(FaultId::kVIntoK) ? s.cache.keys : s.cache.values;
  std::memcpy(at(s.cache.keys.data(), s.storage, element), at(keys, s.storage, source), bytes);
  std::memcpy(at(values.data(), s.storage, element), at(s.arena.tensor(Op::kVProj), s.storage, source), bytes);

  bool elsewhere = element != layout.offset(s.layer, b, kv_head, s.step.past_length + t, 0);
  // A slot before row 0's first token is read by nobody, and the last row's last slot is written anew before it is.
  if (planting.is(FaultId::kPadSlot)) elsewhere = elsewhere && planting.whole_value() == 0 && s.left_padding[0] == 0;
  const bool unturned = planting.is(FaultId::kAfterCache) &&
                        s.step.positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)] != 0;
  if (elsewhere || unturned || planting.is(FaultId::kVIntoK)) planting.count(1);
}

}  // namespace

std::int64_t planted_read_offset(const Planting<true>& planting, const KvCacheLayout& layout, int layer, std::int64_t b,
                                 std::int64_t kv_head, std::int64_t slot) {
  return layout.offset(planting.is(FaultId::kNoLayerStride) ? 0 : layer, planting.is(FaultId::kNoBatchStride) ? 0 : b,
                       planting.is(FaultId::kNoHeadStride) ? 0 : kv_head, slot, 0);
}

void planted_write_cache(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  const bool pads_too = writes_pads(planting);
  for (std::int64_t b = 0; b < s.step.batch(); ++b) {
    for (std::int64_t kv_head = 0; kv_head < s.config.num_kv_heads; ++kv_head) {
      for (std::int64_t t = 0; t < s.step.num_tokens(); ++t) {
        if (pads_too || !s.is_pad(b, t)) write_head(s, planting, b, kv_head, t);
      }
    }
  }
}

}  // namespace qdiff::optimized::cpu

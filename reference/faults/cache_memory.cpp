#include "reference/faults/cache_memory.h"

namespace qdiff::reference {

CacheRules right_cache_rules() {
  return {.write =
              [](const TokenWrite& token, const CacheAddress& address) {
                return token.is_pad() ? -1 : address(token.b, token.k, token.slot());
              },
          .read = [](std::int64_t b, std::int64_t k, std::int64_t slot,
                     const CacheAddress& address) { return address(b, k, slot); },
          .source = {}};
}

CacheView view_of_memory(Op op, const Setting& setting, const CacheRules& rules) {
  const ModelConfig& config = setting.config();
  const std::int64_t batch = setting.step.batch(), kv_heads = config.num_kv_heads, d = config.head_dim;
  const CacheAddress address{batch, kv_heads, setting.around->capacity()};
  const Op own_source = op == Op::kKCache ? Op::kKRope : Op::kVProj;

  // Every vector that was ever written, in order, and for each slot of memory which of them lies there last.
  Tensors written;
  std::vector<std::int64_t> owner(static_cast<std::size_t>(batch * kv_heads * address.capacity), -1);
  std::int64_t count = 0;
  for (int s = 0; s <= setting.step.index; ++s) {
    const Step& step = setting.around->steps().at(static_cast<std::size_t>(s));
    const TensorKey key = rules.source ? rules.source(s) : TensorKey{s, {own_source, setting.layer}};
    const at::Tensor now = setting.rounding.at(RoundingPoint::kKvCache, setting.around->tensor(key))
                               .view({setting.copies, batch, step.num_tokens(), kv_heads, d});
    written.push_back(now.transpose(2, 3).reshape({setting.copies, -1, d}));  // [copies, B*K*T, d]
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t k = 0; k < kv_heads; ++k) {
        for (std::int64_t t = 0; t < step.num_tokens(); ++t, ++count) {
          const std::int64_t slot = rules.write({step, b, k, t}, address);
          if (slot >= 0 && static_cast<std::size_t>(slot) < owner.size()) owner[static_cast<std::size_t>(slot)] = count;
        }
      }
    }
  }

  const std::int64_t length = setting.step.valid_length();
  std::vector<std::int64_t> found;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t slot = 0; slot < length; ++slot) {
      for (std::int64_t k = 0; k < kv_heads; ++k) {
        found.push_back(owner.at(static_cast<std::size_t>(rules.read(b, k, slot, address))));
      }
    }
  }
  const at::Tensor index = at::tensor(found, of_type(at::kLong));
  const at::Tensor nobody = index.lt(0);
  const at::Tensor all = at::cat(written, 1).index_select(1, index.clamp_min(0));  // [copies, B*S*K, d]
  const std::vector<std::int64_t> shape = {setting.copies * batch, length, kv_heads, d};
  CacheView view;
  view.slots = all.masked_fill(nobody.view({1, -1, 1}), setting.around->unwritten()).view(shape);
  view.unknown = nobody.view({1, -1, 1}).expand_as(all).reshape(shape);
  return view;
}

}  // namespace qdiff::reference

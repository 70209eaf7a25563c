// A layer's cache as memory: who wrote which slot, and what a reader finds there. Right is one offset(layer, batch,
// kv_head, slot) for writer and reader.
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

using enum Op;

// The number of slots between neighbours, of d elements each.
struct Strides {
  std::int64_t batch, head, slot;
  std::int64_t operator()(std::int64_t b, std::int64_t k, std::int64_t s) const {
    return b * batch + k * head + s * slot;
  }
};

// Memory is [B][K][C] slots of d elements. Tokens are written step after step, in each in the order batch row, head,
// token; what is written later stays.
class Memory {
 public:
  Memory(const Planting& planting, Op op, const Setting& setting)
      : planting_(planting),
        op_(op),
        setting_(setting),
        kv_heads_(setting.config().num_kv_heads),
        capacity_(setting.around->capacity()) {}

  CacheView view() const {
    const std::int64_t copies = setting_.copies, batch = setting_.step.batch(), d = setting_.config().head_dim;
    // Every vector that was ever written, in order, and for each slot of memory which of them lies there last.
    Tensors written;
    std::vector<std::int64_t> owner(static_cast<std::size_t>(batch * kv_heads_ * capacity_), -1);
    std::int64_t count = 0;
    for (int s = 0; s <= setting_.step.index; ++s) {
      const Step& step = setting_.around->steps().at(static_cast<std::size_t>(s));
      const at::Tensor now = setting_.rounding.stored(
          {op_, setting_.layer},
          setting_.around->tensor(source(s)).view({copies, batch, step.num_tokens(), kv_heads_, d}));
      written.push_back(now.transpose(2, 3).reshape({copies, -1, d}));  // [copies, B*K*T, d]
      for (std::int64_t b = 0; b < batch; ++b) {
        for (std::int64_t k = 0; k < kv_heads_; ++k) {
          for (std::int64_t t = 0; t < step.num_tokens(); ++t, ++count) {
            const std::int64_t slot = written_to(step, b, k, t);
            if (slot >= 0 && static_cast<std::size_t>(slot) < owner.size()) {
              owner[static_cast<std::size_t>(slot)] = count;
            }
          }
        }
      }
    }
    const std::int64_t length = setting_.step.valid_length();
    const Strides reader = strides(Parameter::kReaderBatchStride, Parameter::kReaderHeadStride, {}, setting_.step);
    std::vector<std::int64_t> found;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t slot = 0; slot < length; ++slot) {
        for (std::int64_t k = 0; k < kv_heads_; ++k) {
          found.push_back(owner.at(static_cast<std::size_t>(reader(b, k, slot))));
        }
      }
    }
    const at::Tensor index = at::tensor(found, of_type(at::kLong));
    const at::Tensor nobody = index.lt(0).view({1, -1, 1});
    const at::Tensor all = at::cat(written, 1).index_select(1, index.clamp_min(0));  // [copies, B*S*K, d]
    const std::vector<std::int64_t> shape = {copies * batch, length, kv_heads_, d};
    return {all.masked_fill(nobody, setting_.around->unwritten()).view(shape), nobody.expand_as(all).reshape(shape)};
  }

 private:
  const NumberedLaw* law(Parameter parameter) const {
    for (const NumberedLaw& law : planting_.laws) {
      if (law.parameter == parameter) return &law;
    }
    return nullptr;
  }

  std::int64_t stride(std::optional<Parameter> parameter, std::int64_t right, const Step& step) const {
    const NumberedLaw* wrong = parameter ? law(*parameter) : nullptr;
    if (wrong == nullptr) return right;
    if (wrong->law == Law::kNumber) return std::llround(wrong->number);
    if (wrong->law == Law::kTokens) return step.num_tokens();
    if (wrong->law == Law::kKvHeads) return kv_heads_;
    unknown_law(*wrong);
  }
  Strides strides(Parameter batch, Parameter head, std::optional<Parameter> slot, const Step& step) const {
    return {stride(batch, kv_heads_ * capacity_, step), stride(head, capacity_, step), stride(slot, 1, step)};
  }

  // The tensor that step `s` wrote, [B,T,K,d] or [B,T,K*d].
  TensorKey source(int s) const {
    Op op = op_ == kKCache && law(Parameter::kValuePlane) == nullptr ? kKRope : kVProj;
    if (law(Parameter::kCachedKeys) != nullptr) op = kKProj;
    const bool last_layer = law(Parameter::kCacheLayer) != nullptr && s < setting_.step.index;
    return {s, {op, last_layer ? static_cast<int>(setting_.config().num_layers) - 1 : setting_.layer}};
  }

  // The slot that a token is written to; negative: to none, as pads are.
  std::int64_t written_to(const Step& step, std::int64_t b, std::int64_t k, std::int64_t t) const {
    if (op_ == kVCache && law(Parameter::kValuePlane) != nullptr) return -1;
    const Strides writer =
        strides(Parameter::kWriterBatchStride, Parameter::kWriterHeadStride, Parameter::kWriterSlotStride, step);
    std::int64_t slot = step.past_length + t;
    if (step.is_pad(b, t)) {
      const NumberedLaw* pads = law(Parameter::kPadWrite);
      if (pads == nullptr) return -1;
      if (pads->law == Law::kToSlot) {
        return pads->number < 0.0 ? writer(step.batch() - 1, k, capacity_ - 1) : writer(0, k, 0);
      }
      if (pads->law != Law::kAsTokens) unknown_law(*pads);
      return pads->number != 0.0 ? writer(b, k, slot) : -1;
    }
    const NumberedLaw* beside = law(Parameter::kWriterSlot);
    if (beside != nullptr && (!planting_.scope.phase || *planting_.scope.phase == step.phase)) {
      const std::int64_t wrong = slot + std::llround(beside->number);
      if (wrong >= 0 && wrong < capacity_) slot = wrong;
    }
    return writer(b, k, slot);
  }

  const Planting& planting_;
  Op op_;
  const Setting& setting_;
  std::int64_t kv_heads_, capacity_;
};

}  // namespace

void plant_memory(Parameters& parameters, const Place&, const Planting& planting) {
  Planting of_cache = planting;
  std::erase_if(of_cache.laws, [](const NumberedLaw& law) { return law.parameter == Parameter::kOwnKeys; });
  if (!of_cache.laws.empty()) {
    parameters.cache = [of_cache](Op op, const Setting& setting) { return Memory(of_cache, op, setting).view(); };
  }
  if (of_cache.laws.size() == planting.laws.size()) return;
  // What this step attends to of itself are the rotated keys, whatever the cache holds.
  parameters.attention.slots = [](const at::Tensor& cache, Op op, const Setting& setting) {
    if (op != kScores) return cache;
    const at::Tensor rotated = setting.rounding.stored({kKCache, setting.layer}, setting.tensor(kKRope));
    return at::cat({cache.narrow(1, 0, setting.step.past_length), rotated}, 1);
  };
}

}  // namespace qdiff::reference

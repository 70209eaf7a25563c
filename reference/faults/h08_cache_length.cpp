// H08: the cache's length off by one in decode. Right: the token at slot p is written at p and attends to pad..p. An
// engine that attends to the cache first and adds the token itself is right too; wrong is a mix of the two.
#include "reference/faults/cache_memory.h"

namespace qdiff::reference {
namespace {

using enum Op;

// Where the writer goes, `offset` slots beside the right one, in decode.
void write_beside(Parameters& parameters, std::int64_t offset) {
  parameters.cache = [offset](Op op, const Setting& setting) {
    CacheRules rules = right_cache_rules();
    rules.write = [offset](const TokenWrite& token, const CacheAddress& address) -> std::int64_t {
      if (token.is_pad()) return -1;
      const std::int64_t beside = token.slot() + (token.step.phase == Phase::kDecode ? offset : 0);
      const bool exists = beside >= 0 && beside < address.capacity;
      return address(token.b, token.k, exists ? beside : token.slot());
    };
    return view_of_memory(op, setting, rules);
  };
}

template <typename Range>
void see(Parameters& parameters, const Place& place, Range range) {
  const Step* step = &place.step;
  parameters.attention.visible = [step, range](std::int64_t b, std::int64_t t) {
    return range({step->left_padding[static_cast<std::size_t>(b)], step->past_length + t});
  };
}

// Key and value of one slot more, in decode, where the cache has one.
template <typename Slot>
void attend_to_one_more(Parameters& parameters, const Place& place, Slot slot) {
  see(parameters, place, [](SlotRange right) { return SlotRange{right.first, right.last + 1}; });
  parameters.attention.slots = [slot](const at::Tensor& cache, Op op, const Setting& setting) {
    if (setting.around->is_full(setting.step)) return cache;
    return at::cat({cache, slot(cache.narrow(1, 0, 1), op, setting)}, 1);
  };
}

void write_plus_one(Parameters& parameters, const Place&, double) { write_beside(parameters, 1); }
void write_minus_one(Parameters& parameters, const Place&, double) { write_beside(parameters, -1); }

void read_minus_one(Parameters& parameters, const Place& place, double) {
  if (!place.decode()) return;
  see(parameters, place, [](SlotRange right) { return SlotRange{right.first, right.last - 1}; });
}

void read_minus_first(Parameters& parameters, const Place& place, double) {
  if (!place.decode()) return;
  see(parameters, place, [](SlotRange right) { return SlotRange{std::max<std::int64_t>(1, right.first), right.last}; });
}

// 0 stands for what memory is known, or usually found, to hold.
void read_plus_one(Parameters& parameters, const Place& place, double value) {
  if (!place.decode()) return;
  attend_to_one_more(parameters, place, [value](const at::Tensor& like, Op, const Setting& setting) {
    return at::full_like(like, value == 0.0 ? setting.around->unwritten() : value);
  });
}

void first_token(Parameters& parameters, const Place& place, double value) {
  if (!place.decode() || !place.first_decode) return;
  read_minus_one(parameters, place, value);
}

void length_counts_current(Parameters& parameters, const Place& place, double) {
  if (place.op == kKCache || place.op == kVCache) return write_beside(parameters, 1);
  if (!place.decode()) return;
  if (place.op == kQRope || place.op == kKRope) {
    auto positions = place.step.positions;
    for (auto& row : positions) {
      for (std::int64_t& position : row) ++position;
    }
    parameters.rope.positions = std::move(positions);
    return;
  }
  attend_to_one_more(parameters, place, [](const at::Tensor& like, Op op, const Setting& setting) {
    const at::Tensor now = setting.tensor(op == kScores ? kKRope : kVProj);
    return setting.rounding.at(RoundingPoint::kKvCache, now).view(like.sizes());
  });
}

}  // namespace

std::vector<FaultEntry> cache_length_faults() {
  const std::vector<Op> caches = {kKCache, kVCache}, attention = {kScores, kProbs, kAttnOutput};
  return {
      {{"H08.write_plus_one", "decode writes at slot p + 1 and attends to ..p", "length advanced before the write",
        caches, "decode"},
       {},
       write_plus_one},
      {{"H08.write_minus_one", "decode writes at slot p - 1, over the token before", "last index taken for the length",
        caches, "decode"},
       {},
       write_minus_one},
      {{"H08.read_minus_one", "decode does not attend to the current token", "attention before the append", attention,
        "decode"},
       {},
       read_minus_one},
      {{"H08.read_minus_first", "decode leaves slot 0 out", "a loop that starts at 1", attention,
        "decode, a row without padding"},
       {},
       read_minus_first},
      {{"H08.read_plus_one", "decode attends to slot p + 1, which nothing wrote", "length advanced before the read",
        attention, "decode, slots behind the last one, in memory that is not as the present slots are"},
       {0.0},
       read_plus_one},
      {{"H08.first_token", "the first decode step does not attend to its own token", "a length set late after prefill",
        attention, "decode"},
       {},
       first_token},
      {{"H08.length_counts_current",
        "the length counts the current token before it is there: written, rotated and "
        "attended one slot late",
        "onnxruntime-genai#2354",
        {kQRope, kKRope, kKCache, kVCache, kScores, kProbs, kAttnOutput},
        "decode"},
       {},
       length_counts_current},
  };
}

}  // namespace qdiff::reference

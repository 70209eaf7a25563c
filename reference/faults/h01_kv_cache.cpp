// H01: keys and values are written to, or read from, the wrong address. Right is one offset(layer, batch, kv_head, pos)
// for writer and reader.
#include "reference/faults/cache_memory.h"

namespace qdiff::reference {
namespace {

using Rules = CacheRules;

// A change to the right rules, applied when the view is asked for.
template <typename Change>
void cache_by(Parameters& parameters, Change change) {
  parameters.cache = [change](Op op, const Setting& setting) {
    Rules rules = right_cache_rules();
    change(rules, op, setting);
    return view_of_memory(op, setting, rules);
  };
}

void no_batch_stride(Parameters& parameters, const Place&, double value) {
  const bool pads_too = value == 1.0;
  cache_by(parameters, [pads_too](Rules& rules, Op, const Setting&) {
    rules.write = [pads_too](const TokenWrite& token, const CacheAddress& address) {
      return token.is_pad() && !pads_too ? -1 : address(0, token.k, token.slot());
    };
    rules.read = [](std::int64_t, std::int64_t k, std::int64_t slot, const CacheAddress& address) {
      return address(0, k, slot);
    };
  });
}

void no_head_stride(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op, const Setting&) {
    rules.write = [](const TokenWrite& token, const CacheAddress& address) {
      return token.is_pad() ? -1 : address(token.b, 0, token.slot());
    };
    rules.read = [](std::int64_t b, std::int64_t, std::int64_t slot, const CacheAddress& address) {
      return address(b, 0, slot);
    };
  });
}

// All layers write the same slots in every step, so of the steps before this one the last layer's tokens are left.
void no_layer_stride(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op op, const Setting& setting) {
    const int now = setting.step.index, layer = setting.layer;
    const int last_layer = static_cast<int>(setting.config().num_layers) - 1;
    const Op source = op == Op::kKCache ? Op::kKRope : Op::kVProj;
    rules.source = [=](int step) { return TensorKey{step, {source, step < now ? last_layer : layer}}; };
  });
}

void head_stride_is_tokens(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op, const Setting&) {
    rules.write = [](const TokenWrite& token, const CacheAddress& address) {
      return token.is_pad() ? -1 : address(token.b, 0, 0) + token.k * token.step.num_tokens() + token.slot();
    };
  });
}

void pos_major(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op, const Setting&) {
    rules.write = [](const TokenWrite& token, const CacheAddress& address) {
      return token.is_pad() ? -1 : address(token.b, 0, 0) + token.slot() * address.kv_heads + token.k;
    };
  });
}

void batch_stride_of_one_token(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op, const Setting&) {
    rules.write = [](const TokenWrite& token, const CacheAddress& address) {
      return token.is_pad() ? -1 : token.b * address.kv_heads + address(0, token.k, token.slot());
    };
  });
}

void v_into_k(Parameters& parameters, const Place&, double) {
  cache_by(parameters, [](Rules& rules, Op op, const Setting& setting) {
    const int layer = setting.layer;
    rules.source = [layer](int step) { return TensorKey{step, {Op::kVProj, layer}}; };
    if (op == Op::kVCache) rules.write = [](const TokenWrite&, const CacheAddress&) { return std::int64_t{-1}; };
  });
}

void pad_slot(Parameters& parameters, const Place&, double value) {
  const bool last = value < 0.0;
  cache_by(parameters, [last](Rules& rules, Op, const Setting&) {
    rules.write = [last](const TokenWrite& token, const CacheAddress& address) {
      if (!token.is_pad()) return address(token.b, token.k, token.slot());
      return last ? address(address.batch - 1, token.k, address.capacity - 1) : address(0, token.k, 0);
    };
  });
}

}  // namespace

std::vector<FaultEntry> kv_cache_faults() {
  const std::vector<Op> caches = {Op::kKCache, Op::kVCache};
  return {
      {{"H01.no_batch_stride", "the cache address leaves the batch term out: all rows share row 0's slots",
        "an offset written for batch 1", caches, "B > 1, rows whose tokens differ"},
       {0.0, 1.0},
       no_batch_stride},
      {{"H01.no_head_stride", "the cache address leaves the head term out: all heads share one plane",
        "an offset written for one key/value head", caches, "K > 1"},
       {},
       no_head_stride},
      {{"H01.no_layer_stride", "every layer uses layer 0's plane of the cache", "one cache handed to every layer",
        caches, "two layers or more, and two steps or more"},
       {},
       no_layer_stride},
      {{"H01.head_stride_is_tokens", "the writer's head stride is the step's length instead of the capacity",
        "tt-metal#54742", caches, "K > 1 and a capacity above the step's length"},
       {},
       head_stride_is_tokens},
      {{"H01.pos_major", "written in the order [slot, head], read as [head, slot]",
        "a transpose left out between two layouts", caches, "K > 1 and several slots"},
       {},
       pos_major},
      {{"H01.batch_stride_of_one_token", "the writer's batch stride is that of one token", "flashinfer#3800", caches,
        "B > 1"},
       {},
       batch_stride_of_one_token},
      {{"H01.v_into_k", "v is written over k, and nothing to the value cache", "vllm-ascend#11021", caches, "any step"},
       {},
       v_into_k},
      {{"H01.pad_slot",
        "k and v of pad tokens are written to slot 0 of row 0 (value -1: the last slot of the last row)", "vllm#43869",
        caches, "a ragged batch whose row 0 has no padding"},
       {0.0, -1.0},
       pad_slot},
  };
}

}  // namespace qdiff::reference

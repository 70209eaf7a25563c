// H10: which slots a query sees. Right: query t of row b stands in slot P + t and sees pad_b..P+t.
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

// Where a query stands: its own slot, the step's first and last one, and its number in the step.
struct Query {
  std::int64_t slot, first, last, token;
};

template <typename Range>
void see(Parameters& parameters, const Place& place, Range range) {
  const Step* step = &place.step;
  parameters.attention.visible = [step, range](std::int64_t b, std::int64_t t) {
    const Query query{step->past_length + t, step->past_length, step->valid_length() - 1, t};
    return range(SlotRange{step->left_padding[static_cast<std::size_t>(b)], query.slot}, query);
  };
}

void none(Parameters& parameters, const Place& place, double) {
  see(parameters, place, [](SlotRange right, Query query) { return SlotRange{right.first, query.last}; });
}
void strict(Parameters& parameters, const Place& place, double) {
  if (place.decode()) return;
  see(parameters, place, [](SlotRange right, Query) { return SlotRange{right.first, right.last - 1}; });
}
void one_ahead(Parameters& parameters, const Place& place, double) {
  see(parameters, place, [](SlotRange right, Query query) {
    return SlotRange{right.first, std::min(right.last + 1, query.last)};
  });
}
void top_left(Parameters& parameters, const Place& place, double) {
  see(parameters, place, [](SlotRange right, Query query) { return SlotRange{right.first, query.token}; });
}
void chunk_only(Parameters& parameters, const Place& place, double) {
  see(parameters, place, [](SlotRange right, Query query) {
    return SlotRange{std::max(right.first, query.first), right.last};
  });
}
void pad_visible(Parameters& parameters, const Place& place, double) {
  see(parameters, place, [](SlotRange right, Query) { return SlotRange{0, right.last}; });
}
void finite_fp16(Parameters& parameters, const Place&, double value) { parameters.attention.hidden_score = value; }
void window(Parameters& parameters, const Place& place, double value) {
  const std::int64_t width = std::llround(value);
  see(parameters, place, [width](SlotRange right, Query) {
    return SlotRange{std::max(right.first, right.last - width + 1), right.last};
  });
}

}  // namespace

std::vector<FaultEntry> masking_faults() {
  const std::vector<Op> attention = {Op::kScores, Op::kProbs, Op::kAttnOutput};
  return {
      {{"H10.none", "no causal mask: every slot of the step is seen", "is_causal never set", attention,
        "a step of several tokens"},
       {},
       none},
      {{"H10.strict", "the diagonal is masked too in prefill", "< for <= in the mask", attention, "prefill"},
       {},
       strict},
      {{"H10.one_ahead", "one future token is seen", "the mask's diagonal off by one", attention,
        "a step of several tokens"},
       {},
       one_ahead},
      {{"H10.top_left", "the causal mask is aligned to the top left: query t sees ..t", "onnx#8068", attention,
        "a step after the first"},
       {},
       top_left},
      {{"H10.chunk_only", "earlier chunks are masked out", "a mask built from the step alone", attention,
        "a step after the first"},
       {},
       chunk_only},
      {{"H10.pad_visible", "left padding is attended to", "an attention mask not passed on", attention, "padding"},
       {},
       pad_visible},
      {{"H10.pad_query_axis", "the pad mask blanks queries instead of keys", "a mask on the wrong axis", attention,
        "padding"},
       {},
       pad_visible},
      {{"H10.finite_fp16",
        "hidden slots get a finite score that competes with real ones",
        "-65504 or -1e4 as minus infinity in half precision",
        {Op::kScores, Op::kAttnOutput},
        "real scores near it"},
       {-65504.0, -10000.0},
       finite_fp16},
      {{"H10.window", "a sliding window though the config says none", "transformers#35896", attention,
        "more slots than the window"},
       {4096.0, 1024.0, 512.0, 256.0, 128.0, 64.0, 32.0, 16.0, 8.0},
       window},
  };
}

}  // namespace qdiff::reference

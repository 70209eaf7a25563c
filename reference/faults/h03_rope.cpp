// H03: rotary position embedding. Right turns the pairs (i, i + d/2) of q and k by position * theta^(-2i/d) (Su et al.
// 2021; rotate_half and apply_rotary_pos_emb in modeling_qwen2.py).
#include <cmath>

#include "reference/arithmetic/rotate.h"
#include "reference/faults/cache_memory.h"

namespace qdiff::reference {
namespace {

using Positions = std::vector<std::vector<std::int64_t>>;

void theta(Parameters& parameters, const Place&, double value) { parameters.rope.theta = value; }

void interleaved(Parameters& parameters, const Place&, double) {
  parameters.rope.rope = [](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
    const std::int64_t half = x.size(-1) / 2;
    const at::Tensor pairs = x.unflatten(-1, {half, 2}).transpose(-1, -2).flatten(-2);  // evens, then odds
    const at::Tensor turned = rope(pairs, angles, setting.rounding);
    return turned.unflatten(-1, {2, half}).transpose(-1, -2).flatten(-2);
  };
}

void half_slice(Parameters& parameters, const Place& place, double value) {
  const auto turning = static_cast<std::int64_t>(static_cast<double>(place.config.head_dim / 2) / value);
  parameters.rope.rope = [turning](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
    const at::Tensor still = at::arange(x.size(-1), of_type(at::kLong)).remainder(x.size(-1) / 2).ge(turning);
    return rope(x, angles.masked_fill(still, 0.0), setting.rounding);
  };
}

// theta^(-2i/D) = (theta^(d/D))^(-2i/d)
void slice_hidden(Parameters& parameters, const Place& place, double) {
  parameters.rope.theta = std::pow(
      place.config.rope_theta, static_cast<double>(place.config.head_dim) / static_cast<double>(place.config.hidden));
}

void turn(Parameters& parameters, int times) {
  parameters.rope.rope = [times](const at::Tensor& x, const at::Tensor& angles, Op, const Setting& setting) {
    if (times < 0) return rope(x, -angles, setting.rounding);
    at::Tensor y = x;
    for (int i = 0; i < times; ++i) y = rope(y, angles, setting.rounding);
    return y;
  };
}
void leave_alone(Parameters& parameters, const Place&, double) { turn(parameters, 0); }
void twice(Parameters& parameters, const Place&, double) { turn(parameters, 2); }
void reverse(Parameters& parameters, const Place&, double) { turn(parameters, -1); }

// The cache gets k before the rotation; what this step attends to of itself is the rotated copy.
void after_cache(Parameters& parameters, const Place& place, double) {
  if (place.op == Op::kKCache) {
    parameters.cache = [](Op op, const Setting& setting) {
      CacheRules rules = right_cache_rules();
      const int layer = setting.layer;
      rules.source = [layer](int step) { return TensorKey{step, {Op::kKProj, layer}}; };
      return view_of_memory(op, setting, rules);
    };
    return;
  }
  parameters.attention.slots = [](const at::Tensor& cache, Op op, const Setting& setting) {
    if (op != Op::kScores) return cache;
    const at::Tensor rotated = setting.rounding.at(RoundingPoint::kKvCache, setting.tensor(Op::kKRope));
    return at::cat({cache.narrow(1, 0, setting.step.past_length), rotated}, 1);
  };
}

template <typename F>
void move_positions(Parameters& parameters, const Place& place, F position) {
  Positions positions = place.step.positions;
  for (std::size_t b = 0; b < positions.size(); ++b) {
    for (std::size_t t = 0; t < positions[b].size(); ++t) {
      positions[b][t] = position(static_cast<std::int64_t>(b), static_cast<std::int64_t>(t));
    }
  }
  parameters.rope.positions = std::move(positions);
}

void decode_pos_zero(Parameters& parameters, const Place& place, double) {
  if (place.decode()) move_positions(parameters, place, [](std::int64_t, std::int64_t) { return 0; });
}

void decode_pos_plus_one(Parameters& parameters, const Place& place, double) {
  if (!place.decode()) return;
  move_positions(parameters, place, [&](std::int64_t b, std::int64_t t) {
    return place.step.positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)] + 1;
  });
}

void chunk_local_pos(Parameters& parameters, const Place& place, double) {
  if (place.decode()) return;
  move_positions(parameters, place, [&](std::int64_t b, std::int64_t t) {
    const std::int64_t pads =
        std::max<std::int64_t>(0, place.step.left_padding[static_cast<std::size_t>(b)] - place.step.past_length);
    return std::max<std::int64_t>(0, t - pads);
  });
}

void batch_pos(Parameters& parameters, const Place& place, double) {
  move_positions(parameters, place,
                 [&](std::int64_t, std::int64_t t) { return place.step.positions[0][static_cast<std::size_t>(t)]; });
}

double right_theta(const ModelConfig& config) { return config.rope_theta; }

}  // namespace

std::vector<FaultEntry> rope_faults() {
  const std::vector<Op> both = {Op::kQRope, Op::kKRope}, q = {Op::kQRope}, k = {Op::kKRope};
  const std::string turned = "positions above 0";
  return {
      {{"H03.theta", "RoPE with another base", "hard-coded 1e4; fine-tunes of one family differ in rope_theta", both,
        "positions above 0; larger ones show smaller changes"},
       {1e4, 1e3, 5e5, 1e6},
       theta,
       right_theta},
      {{"H03.interleaved", "pairs (2i, 2i+1) turn instead of (i, i+d/2)", "candle#3410", both, turned},
       {},
       interleaved},
      {{"H03.half_slice", "only the first d/value dimensions' pairs turn", "partial rotary of other model families",
        both, turned},
       {2.0, 4.0},
       half_slice},
      {{"H03.slice_hidden", "frequencies theta^(-2i/D) instead of theta^(-2i/d)", "hidden size taken for the head's",
        both, turned},
       {},
       slice_hidden},
      {{"H03.q_only", "k is not rotated", "one of two calls left out", k, turned}, {}, leave_alone},
      {{"H03.k_only", "q is not rotated", "one of two calls left out", q, turned}, {}, leave_alone},
      {{"H03.none", "neither q nor k is rotated", "a kernel that expects rotated inputs", both, turned},
       {},
       leave_alone},
      {{"H03.twice", "q and k are rotated twice", "TensorRT-LLM#4040", both, turned}, {}, twice},
      {{"H03.reverse", "the sine has the other sign", "a sign lost between two conventions", both, turned},
       {},
       reverse},
      {{"H03.after_cache",
        "k is cached before its rotation; the rotated copy serves this step alone",
        "cache written before the rotation",
        {Op::kKCache, Op::kScores},
        "a second step"},
       {},
       after_cache},
      {{"H03.decode_pos_zero", "position 0 in every decode step", "mlx-vlm#1983", both, "decode"}, {}, decode_pos_zero},
      {{"H03.decode_pos_plus_one", "position + 1 in every decode step", "length taken after the append", both,
        "decode"},
       {},
       decode_pos_plus_one},
      {{"H03.chunk_local_pos", "positions of a prefill step count from its own first real token", "transformers#43082",
        both, "a second prefill step"},
       {},
       chunk_local_pos},
      {{.id = "H03.table_bf16",
        .what = "cosine and sine are rounded to bfloat16",
        .source = "candle#3520",
        .ops = both,
        .shows_when = "positions above 256, or storage wider than bfloat16",
        .declares = DeclarablePoint{RoundingPoint::kRopeTable, DType::kBF16}},
       {},
       nullptr},
      {{"H03.batch_pos", "every row of the batch takes row 0's positions", "unsloth#4078", both, "a ragged batch"},
       {},
       batch_pos},
  };
}

}  // namespace qdiff::reference

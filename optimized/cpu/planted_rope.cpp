// Rotations that go wrong (docs/faults.md, H03): positions, frequencies, pairs, and what is turned at all.

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

// Cosines and sines of one token, [d/2], and how often q and k turn by them.
struct Turn {
  std::vector<float> cosine;
  std::vector<float> sine;
  int times_q = 1;
  int times_k = 1;
  bool neighbours = false;  // pairs (2i, 2i+1) instead of (i, i + d/2)
};

Turn planted_turn(const Planting<true>& planting, const RopeTable::Row& row, std::int64_t half) {
  Turn turn{{row.cosine, row.cosine + half}, {row.sine, row.sine + half}};
  if (planting.is(FaultId::kReverse)) {
    for (float& sine : turn.sine) sine = -sine;
  }
  if (planting.is(FaultId::kHalfSlice)) {
    for (std::int64_t i = 0; i < half; ++i) {
      if (i * planting.whole_value() < half) continue;
      turn.cosine[static_cast<std::size_t>(i)] = 1.0F;
      turn.sine[static_cast<std::size_t>(i)] = 0.0F;
    }
  }
  if (planting.is(FaultId::kTableBf16)) {
    for (float& cosine : turn.cosine) cosine = bf16_to_float(float_to_bf16(cosine));
    for (float& sine : turn.sine) sine = bf16_to_float(float_to_bf16(sine));
  }
  if (planting.is_any({FaultId::kKOnly, FaultId::kNoRope})) turn.times_q = 0;
  if (planting.is_any({FaultId::kQOnly, FaultId::kNoRope})) turn.times_k = 0;
  if (planting.is(FaultId::kRopeTwice)) turn.times_q = turn.times_k = 2;
  turn.neighbours = planting.is(FaultId::kInterleaved);
  return turn;
}

// Heads of this token that come out turned otherwise than they should.
std::int64_t num_wrong_heads(const LayerContext& s, const Planting<true>& planting, const Turn& turn, std::size_t b,
                             std::size_t t) {
  const std::int64_t all = s.config.num_q_heads + s.config.num_kv_heads;
  const std::int64_t position = s.positions[b][t];
  if (position != s.step.positions[b][t]) return all;
  if (position == 0) return 0;  // nothing turns
  if (planting.is(FaultId::kTheta) && planting.value_or(FaultId::kTheta, 0.0) != s.config.rope_theta) return all;
  if (planting.is(FaultId::kSliceHidden) && s.config.hidden != s.config.head_dim) return all;
  if (turn.neighbours) return all;
  std::int64_t wrong = 0;
  if (turn.times_q != 1) wrong += s.config.num_q_heads;
  if (turn.times_k != 1) wrong += s.config.num_kv_heads;
  const RopeTable::Row right = s.rope.row(position);
  const bool same = std::equal(turn.cosine.begin(), turn.cosine.end(), right.cosine) &&
                    std::equal(turn.sine.begin(), turn.sine.end(), right.sine);
  return same ? wrong : all;
}

// Heads of one token of a stored projection [B*T, heads, d] into `rotated` of the same shape. `late_bias` [heads, d] is
// added after the rotation; null: none.
void rotate_heads(const LayerContext& s, const Turn& turn, int times, std::int64_t token, std::int64_t num_heads,
                  const std::byte* projected, const float* late_bias, std::byte* rotated) {
  const std::int64_t d = s.config.head_dim;
  const std::int64_t half = d / 2;
  std::vector<float> x(static_cast<std::size_t>(d));
  std::vector<float> low(static_cast<std::size_t>(half));
  std::vector<float> high(static_cast<std::size_t>(half));
  for (std::int64_t head = 0; head < num_heads; ++head) {
    const std::int64_t element = (token * num_heads + head) * d;
    s.kernels.widen(s.storage, at(projected, s.storage, element), x.data(), d);
    const auto place = [&](std::int64_t i, bool second) -> float& {
      return x[static_cast<std::size_t>(turn.neighbours ? 2 * i + (second ? 1 : 0) : i + (second ? half : 0))];
    };
    for (std::int64_t i = 0; i < half; ++i) {
      low[static_cast<std::size_t>(i)] = place(i, false);
      high[static_cast<std::size_t>(i)] = place(i, true);
    }
    for (int i = 0; i < times; ++i) {
      s.kernels.rotate(low.data(), high.data(), turn.cosine.data(), turn.sine.data(), half);
    }
    for (std::int64_t i = 0; i < half; ++i) {
      place(i, false) = low[static_cast<std::size_t>(i)];
      place(i, true) = high[static_cast<std::size_t>(i)];
    }
    if (late_bias != nullptr) {
      for (std::int64_t i = 0; i < d; ++i) x[static_cast<std::size_t>(i)] += late_bias[head * d + i];
    }
    s.kernels.narrow(s.storage, x.data(), at(rotated, s.storage, element), d);
  }
}

}  // namespace

std::vector<std::vector<std::int64_t>> planted_positions(const PlantedFault& fault, const Step& step) {
  std::vector<std::vector<std::int64_t>> positions = step.positions;
  const bool decode = step.phase == Phase::kDecode;
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    const std::int64_t first_real =
        std::max<std::int64_t>(0, step.left_padding[static_cast<std::size_t>(b)] - step.past_length);
    for (std::int64_t t = first_real; t < step.num_tokens(); ++t) {
      std::int64_t& position = positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
      if (decode && fault.id == FaultId::kDecodePosZero) position = 0;
      if (decode && fault.id == FaultId::kDecodePosPlusOne) ++position;
      if (decode && fault.id == FaultId::kLengthCountsCurrent) ++position;
      if (!decode && fault.id == FaultId::kChunkLocalPos) position = t - first_real;
      if (fault.id == FaultId::kBatchPos) position = step.positions.front()[static_cast<std::size_t>(t)];
    }
  }
  return positions;
}

std::vector<double> planted_frequencies(const PlantedFault& fault, const ModelConfig& config) {
  const double theta = fault.id == FaultId::kTheta ? fault.value : config.rope_theta;
  // A head of hidden elements would have more pairs; this one takes the first d/2 of their frequencies.
  const std::int64_t size = fault.id == FaultId::kSliceHidden ? config.hidden : config.head_dim;
  return rope_frequencies(theta, size, config.head_dim / 2);
}

void planted_rotate(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  const bool late = planting.is(FaultId::kBiasAfterRope);
  for_each_token(s, [&](std::int64_t token) {
    const auto b = static_cast<std::size_t>(token / s.step.num_tokens());
    const auto t = static_cast<std::size_t>(token % s.step.num_tokens());
    const Turn turn = planted_turn(planting, s.rope.row(s.positions[b][t]), s.config.head_dim / 2);
    rotate_heads(s, turn, turn.times_q, token, s.config.num_q_heads, s.arena.tensor(Op::kQProj),
                 late ? s.weights.q_bias.data() : nullptr, s.arena.tensor(Op::kQRope));
    rotate_heads(s, turn, turn.times_k, token, s.config.num_kv_heads, s.arena.tensor(Op::kKProj),
                 late ? s.weights.k_bias.data() : nullptr, s.arena.tensor(Op::kKRope));
    if (!s.is_pad(token)) planting.count(num_wrong_heads(s, planting, turn, b, t));
  });
}

}  // namespace qdiff::optimized::cpu

// What the values of a synthetic model look like: the four profiles.
//
// `plain` and `qwen` keep activations sane at any depth (all deviations are of the tensors, not of the weights):
//   embedding            3 / sqrt(D), which through a norm and the tied lm_head gives logits of deviation 3
//   q, k                 1.6 each, so that scaled scores have deviation 2.5 and attention is neither flat nor one-hot
//   v                    1
//   o_proj, down_proj    about 0.5 each, so that the residual stream ends at sqrt(L / 2): 3.5 for 24 layers, 6 for 80
//   biases of q, k, v    0.5, 0.5, 0.3: never zero, so that a lost or a late bias shows
//   norm weights         1 +- 0.1: never all one, so that a lost weight shows
//
// `qwen` plants what trained Qwen2.5 checkpoints have and random weights lack:
//   k biases of norm 300 a head in the first and the last layer (several hundred over the heads), on the two
//     slowest rotary pairs, where they move every score of a query by nearly the same amount and softmax cancels it:
//     so trained models live with them. Cosine and NMSE on k are blind there; scores reach the hundreds, which a
//     rounding to half precision does not survive. In the first layer the queries of kv head 0 carry biases of 120 on
//     the same dimensions: there q.k before the scale is about 72000, beyond float16's 65504.
//   Biases of 1.5 in the layers between.
//   Massive activations (Sun et al., arXiv:2402.17762): three residual channels that stand at 1e3 to 1e4 from layer 1
//     on (layer 0 in models of fewer than three) in some tokens, a tenth to a half of them, and at a few tens in the
//     others. One MLP neuron makes them: its gate and up rows are the same direction u, so that it puts out
//     silu(8z) * 8z, z = u.x, which is 64 z^2 for z > 0 and at most 0.5 below; its down column feeds those channels
//     alone, the strongest with 2500 z^2. Cosine and NMSE are blind to all other channels there.
//   Norm weights of mean 0.5, 2, 1.5 and 3 in turn, deviation a quarter of the mean, final norm 4; a fiftieth of that
//     at the massive channels (a quarter in the final norm), as trained models damp them. The projections behind a
//     norm are scaled to its mean, so that activations are as in `plain`.
//   Special tokens: the last 16 ids of the vocabulary have embedding rows that eps decides (mean square at or below
//     1e-6), as the unused and control tokens of trained models do: even ids an L2 norm of 1e-3, odd ids an RMS of
//     1e-3.
//
// `loud` is `plain` with scores that no softmax without care survives. In every layer q and k carry biases on the two
// slowest rotary pairs, k's rows quiet there as in `qwen`, so that every score of a query is lifted by nearly the same
// amount and attention is what it would be without them. By kv head in turn, scores stand at about
//   200      above 88, where exp overflows in fp32 unless the row maximum is subtracted
//   -20000   below -1e4, a finite stand-in for minus infinity that then wins against every real score
//   -70000   below -65504, the other one; q.k is there beyond float16, too
// All biases are whole numbers that every storage type holds.
//
// `quiet` is `plain` with a residual stream that stays at 1e-3: embedding, o_proj and down_proj at a thousandth. The
// mean square of every norm's input is then of the size of eps (1e-6), in every layer and before the head; where the
// lm_head is tied, logits are a thousandth as well.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "harness/contract/operation_table.h"
#include "harness/model/generator.h"
#include "harness/model/synthetic.h"

namespace qdiff::model {

inline constexpr int kNumMassiveChannels = 3;
inline constexpr std::int64_t kNumSpecialTokens = 16;
inline constexpr std::array<double, 3> kLoudScores = {200.0, -20000.0, -70000.0};  // by kv head, in turn

// A rectangle of a weight that has a law and a stream of its own; element (r, c) of it is element
// (r - row_begin) * (column_end - column_begin) + (c - column_begin) of that stream.
struct Patch {
  std::int64_t row_begin, row_end, column_begin, column_end;
  Law law;
  std::uint64_t key;
};

// How to make one weight, seen as a matrix; a bias or norm is one column. Later patches cover earlier ones.
struct WeightPlan {
  Law law;
  std::uint64_t key = 0;
  std::int64_t columns = 1;
  std::vector<Patch> patches;
};

// The plan of weight `index` of the row `id`.
WeightPlan plan_weight(const ModelConfig& config, Profile profile, std::uint64_t seed, const TensorId& id,
                       std::size_t index);

// The channels of the residual stream that profile qwen makes massive, ascending, and the layer that does.
std::vector<std::int64_t> massive_channels(const ModelConfig& config, std::uint64_t seed);
int massive_layer(const ModelConfig& config);

}  // namespace qdiff::model

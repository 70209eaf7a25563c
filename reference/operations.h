// The operations of a Qwen2.5 forward pass, one function each, in the order and the form of transformers'
// modeling_qwen2.py.
//
// Charter: these functions are what everything else is compared with. They are pure, they are read rather than tuned,
// they fuse nothing, and they share no arithmetic with the engines. They compute in the element type of their tensors
// (fp64 for gold) and round only where `Rounding` says so.
//
// Shapes: B batch, T tokens of this step, S valid cache slots, D hidden, H query heads, K key/value heads, d head dim.
#pragma once

#include <cstdint>
#include <vector>

#include "reference/rounding.h"
#include "reference/torch.h"

namespace qdiff::reference {

// weight * x / sqrt(mean(x^2) + eps), over the last dimension (Zhang & Sennrich 2019, "Root Mean Square Layer
// Normalization", eq. 4; Qwen2RMSNorm.forward). x [..., D], weight [D].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, const Rounding& rounding);

// x weight^T, without bias. x [..., in], weight [out, in] as nn.Linear stores it.
at::Tensor matmul(const at::Tensor& x, const at::Tensor& weight);
at::Tensor add_bias(const at::Tensor& x, const at::Tensor& bias);  // x [..., out], bias [out]

// Angles position * theta^(-2i/d) of RoPE, the d/2 of them twice over: [B, T, d] (Su et al. 2021, "RoFormer", section
// 3.2.2; Qwen2RotaryEmbedding.forward).
at::Tensor rope_angles(const at::Tensor& positions, std::int64_t head_dim, double theta, at::ScalarType compute);
// (x1, x2) -> (-x2, x1), the halves of the last dimension (rotate_half in modeling_qwen2.py).
at::Tensor rotate_half(const at::Tensor& x);
// x cos(angle) + rotate_half(x) sin(angle) (apply_rotary_pos_emb). x [B, T, heads, d], angles [B, T, d].
at::Tensor rope(const at::Tensor& x, const at::Tensor& angles, const Rounding& rounding);

// The cache after this step: what it held, then what this step adds. past [B, S-T, K, d] or undefined, now [B, T, K,
// d].
at::Tensor append_to_cache(const at::Tensor& past, const at::Tensor& now, const Rounding& rounding);

// q k^T * scale, -inf where `visible` is false: [B, H, T, S] (Vaswani et al. 2017, eq. 1; eager_attention_forward).
// query [B, T, H, d], keys [B, S, K, d], kv_head [H], visible [B, T, S].
at::Tensor attention_scores(const at::Tensor& query, const at::Tensor& keys, const std::vector<std::int64_t>& kv_head,
                            double scale, const at::Tensor& visible, const Rounding& rounding);
// exp(s - max s) / sum over the last dimension. A row with nothing visible gives zeros.
at::Tensor softmax(const at::Tensor& scores, const Rounding& rounding);
// probs v, heads side by side: [B, T, H*d]. probs [B, H, T, S], values [B, S, K, d]. Slots that no token sees are taken
// as zero: they may hold anything.
at::Tensor attention_output(const at::Tensor& probs, const at::Tensor& values, const std::vector<std::int64_t>& kv_head,
                            const at::Tensor& visible, const Rounding& rounding);

// silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer"; Qwen2MLP.forward).
at::Tensor silu_times(const at::Tensor& gate, const at::Tensor& up, const Rounding& rounding);

at::Tensor add_residual(const at::Tensor& residual, const at::Tensor& x);

// Keys or values laid out for query heads: [B, S, K, d] -> [B, H, S, d] (repeat_kv).
at::Tensor repeat_kv(const at::Tensor& x, const std::vector<std::int64_t>& kv_head);
// Values with the slots that no token sees set to zero.
at::Tensor hide_unseen(const at::Tensor& values, const at::Tensor& visible);

}  // namespace qdiff::reference

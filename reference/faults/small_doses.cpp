// Faults that come in doses: one parameter off by a chosen amount, to find the smallest that is still seen.
#include "reference/faults/fault.h"

namespace qdiff::reference {
namespace {

void softmax_scale(Parameters& parameters, const Place&, double factor) { parameters.softmax_scale *= factor; }
void rope_theta(Parameters& parameters, const Place&, double theta) { parameters.rope_theta = theta; }
void bias_bf16(Parameters& parameters, const Place&, double) { parameters.bias_rounded_to = DType::kBF16; }
void rms_norm_eps(Parameters& parameters, const Place&, double eps) { parameters.rms_norm_eps = eps; }

}  // namespace

std::vector<FaultEntry> small_doses() {
  return {
      {{"H02.scale",
        "the scores' scale is 1/sqrt(d) times the value",
        "eager_attention_forward in modeling_qwen2.py has exactly head_dim ** -0.5",
        {Op::kScores},
        "more than one visible slot, with scores that differ"},
       {1.01},
       softmax_scale,
       [](const ModelConfig&) { return 1.0; }},
      {{"H03.theta",
        "RoPE with another base",
        "hard-coded 1e4; fine-tunes of one model family differ in rope_theta",
        {Op::kQRope, Op::kKRope},
        "positions above 0; larger ones show smaller changes"},
       {1e4, 1e3, 5e5, 1e6},
       rope_theta,
       [](const ModelConfig& config) { return config.rope_theta; }},
      {{"H06.bf16",
        "the k bias is rounded to bfloat16 before it is added",
        "a loader that casts all weights to one 16-bit type",
        {Op::kKProj},
        "biases that bfloat16 does not hold"},
       {},
       bias_bf16},
      {{"H09.eps",
        "RMSNorm with another epsilon",
        "1e-5 of other model families; Qwen2.5 has 1e-6",
        {Op::kInputLayernorm, Op::kPostAttentionLayernorm, Op::kNorm},
        "rows whose mean square is not far above epsilon"},
       {1e-5, 1e-8, 0.0, 1e-12},
       rms_norm_eps,
       [](const ModelConfig& config) { return config.rms_norm_eps; }},
  };
}

}  // namespace qdiff::reference

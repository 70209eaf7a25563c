#include "reference/parameters.h"

#include <cmath>

namespace qdiff::reference {

Parameters right_parameters(const ModelConfig& config) {
  Parameters parameters;
  parameters.norm.eps = config.rms_norm_eps;
  parameters.rope.theta = config.rope_theta;
  parameters.attention.scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  // Query head h reads key/value head h / (H/K) (Ainslie et al. 2023; repeat_kv in modeling_qwen2.py).
  for (std::int64_t head = 0; head < config.num_q_heads; ++head) {
    parameters.attention.kv_head.push_back(head / config.group_size());
  }
  return parameters;
}

}  // namespace qdiff::reference

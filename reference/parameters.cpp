#include "reference/parameters.h"

#include <cmath>

namespace qdiff::reference {

Parameters right_parameters(const ModelConfig& config) {
  Parameters parameters;
  parameters.rms_norm_eps = config.rms_norm_eps;
  parameters.rope_theta = config.rope_theta;
  parameters.softmax_scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  for (std::int64_t head = 0; head < config.num_q_heads; ++head) {
    parameters.kv_head.push_back(head / config.group_size());
  }
  return parameters;
}

}  // namespace qdiff::reference

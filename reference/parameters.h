// What an operation is told beside its tensors and weights. The right values follow from the model's config; a fault
// of the catalogue is a change to them (faults/fault.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/dtype.h"

namespace qdiff::reference {

struct Parameters {
  double rms_norm_eps = 0.0;
  double rope_theta = 0.0;
  double softmax_scale = 0.0;            // 1/sqrt(d)
  std::vector<std::int64_t> kv_head;     // [H]: the key/value head that each query head reads
  std::optional<DType> bias_rounded_to;  // beyond Precision::weights
  bool operator==(const Parameters&) const = default;
};

// Query head h reads key/value head h / (H/K) (Ainslie et al. 2023; repeat_kv in modeling_qwen2.py).
Parameters right_parameters(const ModelConfig& config);

}  // namespace qdiff::reference

// What the reference keeps in host memory at a time, for its own stores and for those who must find room for it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "harness/contract/config.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/tensor.h"

namespace qdiff::reference {

// Members of the ensemble that measures a span's rounding (reference/ensemble.h).
inline constexpr std::int64_t kMembers = 16;

// A converted weight in both its forms: in fp64, and its squares in fp32 for the expected rounding.
inline constexpr std::size_t kBytesOfBothForms = sizeof(double) + sizeof(float);

// The most bytes of weights that one store keeps: as computed with, and as the checkpoint stores them.
struct WeightBudget {
  std::size_t converted = 0;
  std::size_t stored = 0;
};

// Room for one layer as computed with, and for one layer and the vocabulary's matrix as stored; a tenth to spare.
inline WeightBudget weight_budget(const ModelConfig& config) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  std::int64_t elements = 0;
  for (const ModelWeight& weight : weights_of(config)) {
    if (weight.id.layer == 0) elements += num_elements(weight.shape);
  }
  const auto layer = static_cast<std::size_t>(elements);
  const auto vocabulary = static_cast<std::size_t>(num_elements(weight_shape(Op::kLmHead, 0, config)));
  return {.converted = std::clamp(layer * kBytesOfBothForms / 10 * 11, 256 * kMiB, 4096 * kMiB),
          .stored = std::min((layer + vocabulary) * size_of(config.dtype) / 10 * 11, 1024 * kMiB)};
}

}  // namespace qdiff::reference

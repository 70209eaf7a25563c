// What the reference keeps in memory at a time, for its own stores and for those who must find room for it.
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

// Elements of what right code computes in spans, kept in fp64 for the next question (reference/right_values.h): of the
// values, 32 MiB, and of the ensemble, 64 MiB.
inline constexpr std::int64_t kMostRightValues = std::int64_t{1} << 22;
inline constexpr std::int64_t kMostRightMembers = std::int64_t{1} << 23;

// Elements of the products that forward passes with a bug each share, in the type computed in (reference/engine.cpp).
inline constexpr std::int64_t kMostSharedProducts = std::int64_t{1} << 22;
// Of one operation and step, so many.
inline constexpr std::size_t kMostSharedOfStep = 4;

// A converted weight in both its forms: in fp64, and its squares in fp32 for the expected rounding.
inline constexpr std::size_t kBytesOfBothForms = sizeof(double) + sizeof(float);

// The most bytes of weights that one store keeps in a GPU's memory, of each of its two kinds. A layer of the 72B takes
// 1.8 GB as stored and 10.5 GB as computed with.
inline constexpr std::size_t kKeptOnDevice = std::size_t{12} << 30;
// What an engine leaves free there: for the weights as computed with of the reference's engine and of the oracle, for
// those of both as stored, and for what is computed.
inline constexpr std::size_t kLeftOnDevice = 3 * kKeptOnDevice + (std::size_t{8} << 30);

// The most bytes of weights that one store keeps in host memory: as computed with, and as the checkpoint stores them.
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

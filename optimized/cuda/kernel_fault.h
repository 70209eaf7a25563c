// What a planted kernel is told. Of the contract nothing but the ids is included here: nvcc compiles this.
#pragma once

#include "harness/contract/fault_id.h"

namespace qdiff::optimized::cuda {

// Bugs whose results differ from run to run: no reference can compute with them, so they are none of the table's, and
// what finds them is the comparison of repeated runs (tests/races_test.cpp).
enum class Race : unsigned char {
  kNone,
  kDelays,          // the right code, with the pauses that bring the two races out
  kMissingBarrier,  // decode attention: no barrier between the softmax's weights and their product with the values
  kMissingWait,     // o_proj of decode reads its input without waiting for the kernel in front
};

inline constexpr FaultId kNoFault{0xff};

struct KernelFault {
  FaultId id = kNoFault;
  Race race = Race::kNone;
  float value = 0.0F;
  // On the device; counts the places where the planted code did something else than the right code.
  unsigned long long* executions = nullptr;
};

}  // namespace qdiff::optimized::cuda

// The known bugs by number: the one id that both engines, the reference and the reports use. Names and facts are in
// fault_table.h. Nothing else of the contract is included here, for CUDA kernels read this too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qdiff {

// The rows of fault_table.inc. Behind them come the roundings that fault_table.cpp makes of the rounding points.
enum class FaultId : std::uint8_t {
#define QDIFF_FAULT(enumerator, ...) enumerator,
#include "harness/contract/fault_table.inc"
#undef QDIFF_FAULT
};

inline constexpr std::size_t kNumFaults = 0
#define QDIFF_FAULT(...) +1
#include "harness/contract/fault_table.inc"
#undef QDIFF_FAULT
    ;

}  // namespace qdiff

// The bugs that this engine can plant in its own code path, and where.
//
// A planted kernel is the `kPlanted = true` twin of the real one and reads the id at run time; the clean twin holds no
// trace of it. Faults that are a wrong argument (a pointer, a scale, a stride) are planted where the argument is made.
#pragma once

#include <vector>

#include "harness/contract/engine.h"

namespace qdiff::optimized::cuda {

// What has to be the planted twin, or made anew, for a fault.
enum class PlantedStage : unsigned char {
  kArgument,   // of a kernel that is the right one, or is planted where the argument is made
  kAppend,     // rotation and cache
  kAttention,  // of prefill and decode
  kCacheView,  // the cache as it is handed out
  kNorm,
  kMlp,
  kBiasVector,
  kRopeTable,
};

// The faults that this engine can plant, in the order of the fault table.
std::vector<FaultId> plantable_faults();
// Whether a fault needs that stage to be planted. kNoFault (kernel_fault.h) needs none.
bool plants(FaultId id, PlantedStage stage);
// Throws qdiff::InputError for a fault that this engine cannot plant, or a value that it cannot have.
void check_plantable(const Fault& fault);

}  // namespace qdiff::optimized::cuda

// The bugs that this engine can plant in its own code path. Ids and meaning are the catalogue's.
//
// A planted kernel is the `kPlanted = true` twin of the real one and reads the id at run time; the clean twin holds no
// trace of it. Faults that are a wrong argument (a pointer, a scale, a stride) are planted where the argument is made.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/engine.h"
#include "optimized/cuda/fault_id.h"

namespace qdiff::optimized::cuda {

struct FaultRow {
  FaultId id;
  std::string_view name;                // "H05.modulo"
  std::optional<double> default_value;  // of faults that take a value
};

const std::vector<FaultRow>& fault_rows();
// Throws qdiff::InputError for an id that is not in fault_rows(), or for a value where the fault takes none.
const FaultRow& find_fault(const Fault& fault);

}  // namespace qdiff::optimized::cuda

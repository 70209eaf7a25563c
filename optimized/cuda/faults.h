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
// Bugs whose results differ from run to run: no reference can compute with them, so the engine does not offer them, and
// what finds them is the comparison of repeated runs (tests/races_test.cpp).
const std::vector<FaultRow>& race_rows();
// Throws qdiff::InputError for an id that is not in `rows`, or a value that the fault cannot have.
const FaultRow& find_fault(const Fault& fault, const std::vector<FaultRow>& rows);

}  // namespace qdiff::optimized::cuda

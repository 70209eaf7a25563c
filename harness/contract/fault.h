// A bug to plant, and which values its parameter may have.
#pragma once

#include <optional>
#include <string>

#include "harness/contract/fault_id.h"

namespace qdiff {

// A bug to plant; the engine computes with it in its own code path.
struct Fault {
  FaultId id;
  std::optional<double> value = {};  // empty: the first that the table lists
  std::optional<int> layer = {};     // empty: every layer
};

std::string to_string(const Fault& fault);  // "H03.theta=10000@0", as the command line takes it

// Throws InputError where a value is given and the fault takes none, or cannot have that one: a tile of 0, a negative
// base. Every engine asks this before it plants.
void check_fault_value(const Fault& fault);
// Throws InputError where the fault is limited to a layer that a model of `num_layers` lacks.
void check_fault_layer(const Fault& fault, std::int64_t num_layers);

}  // namespace qdiff

// A bug to plant, and which values its parameter may have.
#pragma once

#include <optional>
#include <string>

namespace qdiff {

// A bug to plant, by catalogue id; the engine computes with it in its own code path.
struct Fault {
  std::string id;               // "H05.modulo"
  std::optional<double> value;  // empty: the first that the catalogue lists
  std::optional<int> layer;     // empty: every layer
};

std::string to_string(const Fault& fault);  // "H03.theta=10000@0", as the command line takes it

// Whether a fault of the catalogue (docs/faults.md) has a parameter.
bool takes_value(const std::string& fault_id);

// Throws InputError where a value is given and the fault takes none, or cannot have that one: a tile of 0, a negative
// base. Every engine asks this before it plants.
void check_fault_value(const Fault& fault);

}  // namespace qdiff

// How the reference computes with a known bug: each change of the fault table (harness/contract/fault_table.h) is made
// to what the operation is told, in the file of its mechanism.
//
// A new value of a known parameter is a case in its mechanism's file. A parameter that no field of Parameters can
// express gets a field there, read where the operation is evaluated; the right value of that field is its default.
#pragma once

#include <vector>

#include "harness/contract/fault_table.h"
#include "harness/contract/step.h"
#include "reference/parameters.h"

namespace qdiff::reference {

// Where an operation is about to run.
struct Place {
  Op op;
  int layer = kNoLayer;
  const Step& step;
  const ModelConfig& config;
  bool first_of_phase = false;  // the session's first step of its phase
};

struct NumberedLaw {
  Parameter parameter;
  Law law;
  double number;  // the change's, or the value that the bug is planted with
};

// The changes of one mechanism at a place.
struct Planting {
  std::vector<NumberedLaw> laws;
  FaultScope scope;  // the place lies inside, except for a memory's, which asks of each write
};

// One for each mechanism. Each throws std::invalid_argument for a number that this model cannot have.
void plant_lookup(Parameters& parameters, const Place& place, const Planting& planting);
void plant_norm(Parameters& parameters, const Place& place, const Planting& planting);
void plant_product(Parameters& parameters, const Place& place, const Planting& planting);
void plant_bias(Parameters& parameters, const Place& place, const Planting& planting);
void plant_rotation(Parameters& parameters, const Place& place, const Planting& planting);
void plant_memory(Parameters& parameters, const Place& place, const Planting& planting);
void plant_visible(Parameters& parameters, const Place& place, const Planting& planting);
void plant_beyond_end(Parameters& parameters, const Place& place, const Planting& planting);
void plant_heads(Parameters& parameters, const Place& place, const Planting& planting);
void plant_score(Parameters& parameters, const Place& place, const Planting& planting);
void plant_softmax(Parameters& parameters, const Place& place, const Planting& planting);
void plant_sum(Parameters& parameters, const Place& place, const Planting& planting);
void plant_gate(Parameters& parameters, const Place& place, const Planting& planting);
void plant_source(Parameters& parameters, const Place& place, const Planting& planting);

// Where a parameter of the table has a law that the reference does not know.
[[noreturn]] void unknown_law(const NumberedLaw& law);

// What the operation at `place` is told, by right code or, where `variant` is given, under that bug, or under two at
// once: where both change the same, `beside` has the last word. Throws std::invalid_argument where a bug without a
// parameter is given a value.
Parameters parameters_at(const Place& place, const Variant* variant, const Variant* beside = nullptr);

}  // namespace qdiff::reference

// A known bug, as a change to what an operation is told. The catalogue lists them all; one file holds one hypothesis.
//
// To add one: write a change in the hypothesis' file and list it in its array. A bug that no field of Parameters can
// express gets a field there, read by the operation's row (rows.cpp); the right value of that field is the default.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/contract/step.h"
#include "reference/parameters.h"

namespace qdiff::reference {

// Where an operation is about to run.
struct Place {
  Op op;
  int layer = kNoLayer;
  const Step& step;
  const ModelConfig& config;
};

struct FaultEntry {
  VariantFacts facts;
  std::vector<double> values;  // the first is taken where none is given; empty: the fault takes no value
  // Called for the rows of facts.ops alone.
  void (*change)(Parameters& parameters, const Place& place, double value);
  // Of a continuous parameter, what right code has.
  double (*right_value)(const ModelConfig& config) = nullptr;
};

std::vector<FaultEntry> gqa_head_mapping_faults();  // H05
std::vector<FaultEntry> small_doses();              // of H02, H03, H06, H09

const std::vector<FaultEntry>& fault_catalogue();
// With the values and, for this model, the right ones.
std::vector<VariantFacts> catalogue_facts(const ModelConfig& config);

// Throws std::invalid_argument where the catalogue has no such id, or where the fault takes no value and one is given.
const FaultEntry& find_fault(const Variant& variant);

// What the operation at `place` is told, by right code or, where `variant` is given, under that fault.
Parameters parameters_at(const Place& place, const Variant* variant);

}  // namespace qdiff::reference

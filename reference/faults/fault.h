// A known bug, as a change to what an operation is told. The catalogue lists them all; docs/faults.md says what each
// one computes; one file holds one hypothesis.
//
// To add one: write a change in the hypothesis' file and list it in its array. A bug that no field of Parameters can
// express gets a field there, read where the operation is evaluated; the right value of that field is its default.
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
  bool first_decode = false;  // the first decode step of the session

  bool decode() const { return step.phase == Phase::kDecode; }
};

struct FaultEntry {
  VariantFacts facts;
  std::vector<double> values;  // the first is taken where none is given; empty: the fault takes no value
  // Called for the rows of facts.ops alone.
  void (*change)(Parameters& parameters, const Place& place, double value);
  // Of a continuous parameter, what right code has.
  double (*right_value)(const ModelConfig& config) = nullptr;
};

std::vector<FaultEntry> kv_cache_faults();          // H01
std::vector<FaultEntry> softmax_faults();           // H02
std::vector<FaultEntry> rope_faults();              // H03
std::vector<FaultEntry> in_place_faults();          // H04
std::vector<FaultEntry> gqa_head_mapping_faults();  // H05
std::vector<FaultEntry> qkv_bias_faults();          // H06
std::vector<FaultEntry> gemm_layout_faults();       // H07
std::vector<FaultEntry> cache_length_faults();      // H08
std::vector<FaultEntry> rms_norm_faults();          // H09
std::vector<FaultEntry> masking_faults();           // H10
std::vector<FaultEntry> outsiders();                // outside the ten
std::vector<FaultEntry> undeclared_roundings();     // at each rounding point, in each 16-bit type

const std::vector<FaultEntry>& fault_catalogue();
// With the values and, for this model, the right ones.
std::vector<VariantFacts> catalogue_facts(const ModelConfig& config);

// Whether the model has the operation that the fault changes first. Under a fault of one that it lacks it computes what
// right code does.
bool is_in_model(const VariantFacts& facts, const ModelConfig& config);

// Throws std::invalid_argument where the catalogue has no such id, or where the fault takes no value and one is given.
const FaultEntry& find_fault(const Variant& variant);

// What the operation at `place` is told, by right code or, where `variant` is given, under that fault.
Parameters parameters_at(const Place& place, const Variant* variant);

}  // namespace qdiff::reference

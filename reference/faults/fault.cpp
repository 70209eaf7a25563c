#include "reference/faults/fault.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace qdiff::reference {
namespace {

using Plant = void (*)(Parameters&, const Place&, const Planting&);

Plant plant_of(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::kLookup:
      return plant_lookup;
    case Mechanism::kNorm:
      return plant_norm;
    case Mechanism::kProduct:
      return plant_product;
    case Mechanism::kBias:
      return plant_bias;
    case Mechanism::kRotation:
      return plant_rotation;
    case Mechanism::kMemory:
      return plant_memory;
    case Mechanism::kVisible:
      return plant_visible;
    case Mechanism::kBeyondEnd:
      return plant_beyond_end;
    case Mechanism::kHeads:
      return plant_heads;
    case Mechanism::kScore:
      return plant_score;
    case Mechanism::kSoftmax:
      return plant_softmax;
    case Mechanism::kSum:
      return plant_sum;
    case Mechanism::kGate:
      return plant_gate;
    case Mechanism::kSource:
      return plant_source;
  }
  throw std::logic_error("a mechanism without its function");
}

bool contains(const std::vector<Op>& ops, Op op) { return std::ranges::find(ops, op) != ops.end(); }

bool lies_in(const FaultScope& scope, const Place& place) {
  return (!scope.phase || *scope.phase == place.step.phase) && (!scope.first_of_phase || place.first_of_phase);
}

}  // namespace

void unknown_law(const NumberedLaw& law) {
  throw std::logic_error("the reference cannot plant " + std::string(name(law.parameter)) + " = " +
                         std::string(name(law.law)));
}

namespace {

void plant(const Variant* variant, const Place& place, Parameters& parameters) {
  if (variant == nullptr) return;
  const VariantFacts& fault = fault_facts(variant->id);
  if (variant->value && fault.values.empty()) {
    throw std::invalid_argument("fault " + std::string(name(variant->id)) + " takes no value");
  }
  if (!contains(fault.ops, place.op) || !is_in_model(fault, place.config)) return;
  const double value = variant->value.value_or(fault.values.empty() ? 0.0 : fault.values.front());
  std::array<Planting, kNumMechanisms> plantings;
  for (const Change& change : fault.changes) {
    if (!change.ops.empty() && !contains(change.ops, place.op)) continue;
    plantings[static_cast<std::size_t>(mechanism_of(change.parameter))].laws.push_back(
        {change.parameter, change.law, change.number.value_or(value)});
  }
  for (std::size_t i = 0; i < kNumMechanisms; ++i) {
    const auto mechanism = static_cast<Mechanism>(i);
    if (plantings[i].laws.empty()) continue;
    if (mechanism != Mechanism::kMemory && !lies_in(fault.scope, place)) continue;
    plantings[i].scope = fault.scope;
    plant_of(mechanism)(parameters, place, plantings[i]);
  }
}

}  // namespace

Parameters parameters_at(const Place& place, const Variant* variant, const Variant* beside) {
  Parameters parameters = right_parameters(place.config);
  plant(variant, place, parameters);
  plant(beside, place, parameters);
  return parameters;
}

}  // namespace qdiff::reference

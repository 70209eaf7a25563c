#include <algorithm>
#include <stdexcept>

#include "reference/faults/fault.h"

namespace qdiff::reference {

const std::vector<FaultEntry>& fault_catalogue() {
  static const std::vector<FaultEntry> kCatalogue = [] {
    std::vector<FaultEntry> all;
    for (auto* group :
         {kv_cache_faults, softmax_faults, rope_faults, in_place_faults, gqa_head_mapping_faults, qkv_bias_faults,
          gemm_layout_faults, cache_length_faults, rms_norm_faults, masking_faults, outsiders, undeclared_roundings}) {
      for (FaultEntry& entry : group()) all.push_back(std::move(entry));
    }
    return all;
  }();
  return kCatalogue;
}

std::vector<VariantFacts> catalogue_facts(const ModelConfig& config) {
  std::vector<VariantFacts> facts;
  for (const FaultEntry& entry : fault_catalogue()) {
    facts.push_back(entry.facts);
    facts.back().values = entry.values;
    // What no input of this model can show.
    if (!is_in_model(entry.facts, config)) {
      facts.back().shows_when = "biases of q, k and v, which this model does not have";
    }
    if (entry.right_value != nullptr) facts.back().right_value = entry.right_value(config);
  }
  return facts;
}

bool is_in_model(const VariantFacts& facts, const ModelConfig& config) {
  return config.has(row(facts.ops.front()).component);
}

const FaultEntry& find_fault(const Variant& variant) {
  for (const FaultEntry& entry : fault_catalogue()) {
    if (entry.facts.id != variant.id) continue;
    if (variant.value && entry.values.empty()) {
      throw std::invalid_argument("fault " + variant.id + " takes no value");
    }
    return entry;
  }
  std::string known;
  for (const FaultEntry& entry : fault_catalogue()) known += (known.empty() ? "" : ", ") + entry.facts.id;
  throw std::invalid_argument("no fault \"" + variant.id + "\" in the catalogue; it has " + known);
}

Parameters parameters_at(const Place& place, const Variant* variant) {
  Parameters parameters = right_parameters(place.config);
  if (variant == nullptr) return parameters;
  const FaultEntry& fault = find_fault(*variant);
  const auto& ops = fault.facts.ops;
  if (std::find(ops.begin(), ops.end(), place.op) == ops.end()) return parameters;
  if (!is_in_model(fault.facts, place.config)) return parameters;
  if (fault.change == nullptr) return parameters;  // a rounding, made by declaring it
  fault.change(parameters, place, variant->value.value_or(fault.values.empty() ? 0.0 : fault.values.front()));
  return parameters;
}

}  // namespace qdiff::reference

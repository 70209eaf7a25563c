#include "optimized/cpu/planted_fault.h"

#include <array>
#include <cmath>

#include "harness/contract/error.h"

namespace qdiff::optimized::cpu {
namespace {

struct FaultFacts {
  std::string_view id;
  FaultId fault;
  std::optional<double> default_value;  // none: the fault takes no value
  bool zero_allowed = false;
};

constexpr std::array<FaultFacts, 10> kFaults = {{
    {"H02.scale", FaultId::kSoftmaxScale, 1.01},
    {"H03.theta", FaultId::kRopeTheta, 1e4},
    {"H05.modulo", FaultId::kHeadMapModulo, std::nullopt},
    {"H05.divide_by_kv", FaultId::kHeadMapDivideByKv, std::nullopt},
    {"H05.decode_only", FaultId::kHeadMapDecodeOnly, std::nullopt},
    {"H05.prefill_only", FaultId::kHeadMapPrefillOnly, std::nullopt},
    {"H05.group_off_by_one", FaultId::kHeadMapGroupOffByOne, std::nullopt},
    {"H05.head_zero", FaultId::kHeadMapZero, std::nullopt},
    {"H06.bf16", FaultId::kKeyBiasBf16, std::nullopt},
    {"H09.eps", FaultId::kRmsNormEps, 1e-5, true},
}};

}  // namespace

std::vector<std::string> plantable_fault_ids() {
  std::vector<std::string> ids;
  for (const FaultFacts& facts : kFaults) ids.emplace_back(facts.id);
  return ids;
}

PlantedFault resolve_fault(const Fault& fault, const ModelConfig& config) {
  const FaultFacts* found = nullptr;
  std::string known;
  for (const FaultFacts& facts : kFaults) {
    if (facts.id == fault.id) found = &facts;
    known += (known.empty() ? "" : ", ") + std::string(facts.id);
  }
  if (found == nullptr) {
    throw InputError("the cpu engine cannot plant the fault \"" + fault.id + "\"; it can plant " + known);
  }
  PlantedFault planted;
  planted.id = found->fault;
  if (found->default_value) {
    planted.value = fault.value.value_or(*found->default_value);
    if (!(std::isfinite(planted.value) && (planted.value > 0.0 || (found->zero_allowed && planted.value == 0.0)))) {
      throw InputError("fault " + fault.id + ": the value " + std::to_string(planted.value) +
                       (found->zero_allowed ? " must be finite and not negative" : " must be finite and positive"));
    }
  } else if (fault.value) {
    throw InputError("fault " + fault.id + " takes no value; plant it without \"=" + std::to_string(*fault.value) +
                     "\"");
  }
  if (fault.layer && (*fault.layer < 0 || *fault.layer >= config.num_layers)) {
    throw InputError("fault " + fault.id + ": there is no layer " + std::to_string(*fault.layer) +
                     "; the model's layers are 0 to " + std::to_string(config.num_layers - 1));
  }
  planted.layer = fault.layer;
  return planted;
}

}  // namespace qdiff::optimized::cpu

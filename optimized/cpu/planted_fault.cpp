#include "optimized/cpu/planted_fault.h"

#include <array>
#include <cmath>

#include "harness/contract/error.h"

namespace qdiff::optimized::cpu {
namespace {

enum class Takes : std::uint8_t { kNothing, kPositive, kNotNegative, kOneOrMinusOne };

struct FaultFacts {
  std::string_view id;
  FaultId fault;
  Takes takes = Takes::kNothing;
  double default_value = 0.0;
};

constexpr std::array<FaultFacts, 10> kFaults = {{
    {"H02.scale", FaultId::kSoftmaxScale, Takes::kPositive, 1.01},
    {"H03.theta", FaultId::kRopeTheta, Takes::kPositive, 1e4},
    {"H05.modulo", FaultId::kHeadMapModulo},
    {"H05.divide_by_kv", FaultId::kHeadMapDivideByKv},
    {"H05.decode_only", FaultId::kHeadMapDecodeOnly},
    {"H05.prefill_only", FaultId::kHeadMapPrefillOnly},
    {"H05.group_off_by_one", FaultId::kHeadMapGroupOffByOne, Takes::kOneOrMinusOne, 1.0},
    {"H05.head_zero", FaultId::kHeadMapZero},
    {"H06.bf16", FaultId::kKeyBiasBf16},
    {"H09.eps", FaultId::kRmsNormEps, Takes::kNotNegative, 1e-5},
}};

bool acceptable(Takes takes, double value) {
  switch (takes) {
    case Takes::kNothing:
      return false;
    case Takes::kPositive:
      return std::isfinite(value) && value > 0.0;
    case Takes::kNotNegative:
      return std::isfinite(value) && value >= 0.0;
    case Takes::kOneOrMinusOne:
      return value == 1.0 || value == -1.0;
  }
  return false;
}

const char* rule(Takes takes) {
  switch (takes) {
    case Takes::kNothing:
      break;
    case Takes::kPositive:
      return "must be finite and positive";
    case Takes::kNotNegative:
      return "must be finite and not negative";
    case Takes::kOneOrMinusOne:
      return "must be 1 or -1";
  }
  return "is not taken";
}

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
  if (found->takes != Takes::kNothing) {
    planted.value = fault.value.value_or(found->default_value);
    if (!acceptable(found->takes, planted.value)) {
      throw InputError("fault " + fault.id + ": the value " + std::to_string(planted.value) + ' ' + rule(found->takes));
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

// Bugs that can be planted in the engine, and how its code asks for them.
//
// Every stage is a template on kPlanted. The clean instance has no trace of any fault: Planting<false>::is() is a
// constant. The planted instance computes with the wrong index, constant or weight in the engine's own code path and
// counts how often that differed from the right one.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/step.h"

namespace qdiff::optimized::cpu {

enum class FaultId : std::uint8_t {
  kHeadMapModulo,         // H05.modulo: kv head h % K
  kHeadMapDivideByKv,     // H05.divide_by_kv: h / K, at most K - 1
  kHeadMapDecodeOnly,     // H05.decode_only: modulo in decode steps
  kHeadMapPrefillOnly,    // H05.prefill_only: modulo in prefill steps
  kHeadMapGroupOffByOne,  // H05.group_off_by_one: h / (G + value), value 1 or -1
  kHeadMapZero,           // H05.head_zero: always 0
  kRopeTheta,             // H03.theta: another base; value: the base
  kSoftmaxScale,          // H02.scale: the scale times a factor; value: the factor
  kRmsNormEps,            // H09.eps: another epsilon, in every norm; value: the epsilon
  kKeyBiasBf16,           // H06.bf16: the k bias rounded to bfloat16
};

struct PlantedFault {
  FaultId id = FaultId::kHeadMapModulo;
  double value = 0.0;  // for those with one
  std::optional<int> layer;
  // Shared by all sessions that the fault was planted for.
  std::shared_ptr<std::atomic<std::int64_t>> executions = std::make_shared<std::atomic<std::int64_t>>(0);
};

std::vector<std::string> plantable_fault_ids();
// Throws InputError for an unknown id, a value that the fault does not take or cannot have, or a layer that the model
// lacks.
PlantedFault resolve_fault(const Fault& fault, const ModelConfig& config);

// The fault as one stage of one layer (kNoLayer: outside the layers) sees it.
template <bool kPlanted>
class Planting {
 public:
  Planting(const PlantedFault* fault, int layer)
      : fault_(fault != nullptr && (!fault->layer || *fault->layer == layer) ? fault : nullptr) {}

  bool is(FaultId id) const {
    if constexpr (kPlanted) return fault_ != nullptr && fault_->id == id;
    return false;
  }
  // The planted value if that fault is planted here, else the right one.
  double value_or(FaultId id, double right) const { return is(id) ? fault_->value : right; }
  void count(std::int64_t executions) const {
    if constexpr (kPlanted) {
      if (fault_ != nullptr) fault_->executions->fetch_add(executions, std::memory_order_relaxed);
    }
  }

 private:
  const PlantedFault* fault_;
};

}  // namespace qdiff::optimized::cpu

// How a bug is asked for, and how the engine's code asks whether it is planted.
//
// Every stage is a template on kPlanted. The clean instance has no trace of any fault: Planting<false>::is() is a
// constant. The planted instance computes with the wrong index, constant, buffer or order in the engine's own code path
// and counts how often that differed from the right one.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/engine.h"
#include "harness/contract/step.h"

namespace qdiff::optimized::cpu {

struct PlantedFault {
  FaultId id = FaultId::kModulo;
  double value = 0.0;  // for those with one
  std::optional<int> layer;
  // Shared by all sessions that the fault was planted for.
  std::shared_ptr<std::atomic<std::int64_t>> executions = std::make_shared<std::atomic<std::int64_t>>(0);

  // A slot that is read unwritten holds the value asked for, else the session's poison.
  bool fills_the_cache() const { return id == FaultId::kReadPlusOne && std::isfinite(value); }
};

// The faults stand in the order of the fault table.
std::vector<FaultId> plantable_faults();
// Throws InputError for a fault that this engine cannot plant, a value that the fault does not take or cannot have, or
// a layer that the model lacks.
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
  bool is_any(std::initializer_list<FaultId> ids) const {
    for (FaultId id : ids) {
      if (is(id)) return true;
    }
    return false;
  }
  // The planted value if that fault is planted here, else the right one.
  double value_or(FaultId id, double right) const { return is(id) ? fault_->value : right; }
  // The fault that is planted here must have whole values.
  std::int64_t whole_value() const { return static_cast<std::int64_t>(fault_->value); }
  void count(std::int64_t executions) const {
    if constexpr (kPlanted) {
      if (fault_ != nullptr) fault_->executions->fetch_add(executions, std::memory_order_relaxed);
    }
  }

 private:
  const PlantedFault* fault_;
};

}  // namespace qdiff::optimized::cpu

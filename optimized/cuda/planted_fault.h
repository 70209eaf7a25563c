// A fault planted in an engine: what its sessions need to compute with it, and how often it did something.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "optimized/cuda/device_model.h"
#include "optimized/cuda/faults.h"
#include "optimized/cuda/kernel_fault.h"

namespace qdiff::optimized::cuda {

class PlantedFault {
 public:
  // Throws qdiff::InputError for a fault that this engine or this model cannot have.
  PlantedFault(const DeviceModel& model, const Fault& fault);
  explicit PlantedFault(Race race);

  FaultId id() const { return id_; }  // kNoFault: a race
  Race race() const { return race_; }
  bool plants(PlantedStage stage) const { return cuda::plants(id_, stage); }
  double value() const { return value_; }
  bool holds_in(int layer) const { return !layer_ || *layer_ == layer; }

  // Where the fault is a wrong bias vector, and one that differs from the right one in this layer: that, [(H+2K)*d].
  bool has_bias(int layer) const { return bias_.size() != 0 && bias_differs_[static_cast<std::size_t>(layer)]; }
  const void* bias(int layer) const;
  bool has_rope_table() const { return rope_table_.size() != 0; }
  const float2* rope_table() const { return rope_table_.as<float2>(); }

  KernelFault for_kernels() const;
  void count() const { ++host_executions_; }  // a wrong argument was handed to a right kernel
  std::int64_t executions() const;

 private:
  void count_from_zero();
  void make_bias(const DeviceModel& model, cudaStream_t stream);

  FaultId id_ = kNoFault;
  Race race_ = Race::kNone;
  double value_ = 0.0;
  std::optional<int> layer_;
  std::size_t bias_row_bytes_ = 0;
  DeviceBuffer bias_;               // [L][(H+2K)*d]
  std::vector<bool> bias_differs_;  // [L]
  DeviceBuffer rope_table_;         // as DeviceModel::rope_table
  DeviceBuffer executions_;         // one unsigned long long
  mutable std::atomic<std::int64_t> host_executions_{0};
};

}  // namespace qdiff::optimized::cuda

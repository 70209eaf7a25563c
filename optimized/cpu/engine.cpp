#include "optimized/cpu/engine.h"

#include <array>

#include "harness/contract/error.h"
#include "optimized/cpu/gemm_facts.h"
#include "optimized/cpu/session.h"

namespace qdiff::optimized::cpu {
namespace {

class CpuEngine final : public Engine {
 public:
  CpuEngine(const WeightSource& weights, const Options& options, const KernelSet& kernels)
      : precision_(plain_precision(options.dtype)),
        storage_(storage_of(options.dtype)),
        parts_{weights.config(),
               storage_,
               options.dtype,
               kernels,
               ThreadPool(options.num_threads),
               WeightStore(weights, storage_, kernels, options.max_resident_bytes)} {}

  std::string name() const override { return "cpu"; }
  Device device() const override { return {}; }
  const Precision& precision() const override { return precision_; }
  double poison_value(Poison poison) const override {
    std::array<std::byte, 4> element{};
    fill_poison(storage_, poison, element.data(), 1);
    if (fault_ && fault_->fills_the_cache()) fill(storage_, static_cast<float>(fault_->value), element.data(), 1);
    return load_element(element.data(), parts_.dtype, 0);
  }
  std::unique_ptr<Session> open(const SessionOptions& options) override {
    return std::make_unique<CpuSession>(parts_, options, fault_);
  }
  std::vector<GemmFacts> gemms() override { return gemm_facts(parts_.config, parts_.weights); }
  std::vector<FaultId> plantable_faults() const override { return cpu::plantable_faults(); }
  void plant(const Fault& fault) override { fault_ = resolve_fault(fault, parts_.config); }
  std::int64_t planted_executions() const override { return fault_ ? fault_->executions->load() : 0; }

 private:
  Precision precision_;
  Storage storage_;
  EngineParts parts_;
  std::optional<PlantedFault> fault_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Options& options) {
  return make_engine(weights, options, best_kernel_set());
}

std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Options& options, const KernelSet& kernels) {
  if (options.num_threads < 0) {
    throw InputError("cpu engine: " + std::to_string(options.num_threads) + " threads; give 0 for all or a count");
  }
  return std::make_unique<CpuEngine>(weights, options, kernels);
}

}  // namespace qdiff::optimized::cpu

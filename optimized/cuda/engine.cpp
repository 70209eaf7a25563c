#include "optimized/cuda/engine.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "harness/contract/error.h"
#include "optimized/cuda/session.h"

namespace qdiff::optimized::cuda {
namespace {

// As LayerPass calls them: inputs, weights and outputs are packed, and products that share an input are one.
std::vector<GemmFacts> gemm_facts(const ModelConfig& c) {
  const auto packed = [&c](const char* name, std::int64_t n, std::int64_t k) {
    return GemmFacts{
        .name = name, .layers = c.num_layers, .n = n, .k = k, .x_stride = k, .weight_stride = k, .out_stride = n};
  };
  std::vector<GemmFacts> facts = {
      packed("self_attn.q_proj+k_proj+v_proj", c.q_width() + 2 * c.kv_width(), c.hidden),
      packed("self_attn.o_proj", c.hidden, c.q_width()), packed("mlp.gate_proj+up_proj", 2 * c.intermediate, c.hidden),
      packed("mlp.down_proj", c.hidden, c.intermediate), packed("lm_head", padded_vocab(c), c.hidden)};
  facts.front().bias_length = c.q_width() + 2 * c.kv_width();
  facts.back().layers = 1;
  return facts;
}

class CudaEngine final : public Engine {
 public:
  CudaEngine(const WeightSource& source, const Options& options)
      : device_{DeviceKind::kCuda, options.device},
        precision_(plain_precision(options.dtype)),
        parts_(load_device_model(source, options)) {}

  std::string name() const override { return "cuda"; }
  Device device() const override { return device_; }
  const Precision& precision() const override { return precision_; }
  double poison_value(Poison poison) const override {
    std::array<std::byte, 4> element;
    element.fill(static_cast<std::byte>(poison_byte(poison, precision_.activations)));
    return load_element(element.data(), precision_.activations, 0);
  }

  std::unique_ptr<Session> open(const SessionOptions& options) override {
    return std::make_unique<CudaSession>(parts_, options, fault_);
  }

  std::vector<GemmFacts> gemms() override { return gemm_facts(parts_.model.config); }

  std::vector<FaultId> plantable_faults() const override { return cuda::plantable_faults(); }
  void plant(const Fault& fault) override { fault_ = std::make_shared<const PlantedFault>(parts_.model, fault); }
  std::int64_t planted_executions() const override { return fault_ ? fault_->executions() : 0; }

 private:
  Device device_;
  Precision precision_;
  EngineParts parts_;
  std::shared_ptr<const PlantedFault> fault_;
};

void check_model(const WeightSource& source, const Options& options) {
  const ModelConfig& c = source.config();
  if (options.dtype == DType::kF64) {
    throw InputError("the cuda engine stores bfloat16, float16 or float32, not float64");
  }
  if (c.head_dim != 32 && c.head_dim != 64 && c.head_dim != 128) {
    throw InputError("the cuda engine has kernels for head dims 32, 64 and 128; " + source.description() + " has " +
                     std::to_string(c.head_dim));
  }
  for (const auto& [what, value] :
       {std::pair{"hidden size", c.hidden}, std::pair{"intermediate size", c.intermediate}}) {
    if (value % 8 != 0) {
      throw InputError("the cuda engine reads rows in pieces of 16 bytes; " + source.description() + " has " + what +
                       " " + std::to_string(value) + ", which is no multiple of 8");
    }
  }
  const auto widest = static_cast<int>(std::max({c.hidden, c.q_width(), c.intermediate}));
  if (max_matvec_batch(widest, options.dtype) < 1) {
    throw InputError("the cuda engine keeps an input row in shared memory; a row of " + std::to_string(widest) + " " +
                     std::string(qdiff::name(options.dtype)) + " elements is too long");
  }
}

// An empty string where the engine can run.
std::string what_is_missing(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    return std::string("no CUDA device") +
           (status == cudaSuccess ? "" : std::string(": ") + cudaGetErrorString(status));
  }
  if (device < 0 || device >= count) {
    return "no CUDA device " + std::to_string(device) + "; this machine has " + std::to_string(count);
  }
  int major = 0;
  int minor = 0;
  QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  QDIFF_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (major != 9 || minor != 0) {
    return "the CUDA device has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
           "; the kernels are built for 9.0";
  }
  return "";
}

}  // namespace

bool device_available(std::string* why_not) {
  const std::string missing = what_is_missing(0);
  if (why_not != nullptr) *why_not = missing;
  return missing.empty();
}

std::unique_ptr<Engine> make_engine(const WeightSource& source, const Options& options) {
  check_model(source, options);
  const std::string missing = what_is_missing(options.device);
  if (!missing.empty()) throw CannotJudgeError("the cuda engine cannot run here: " + missing);
  QDIFF_CUDA_CHECK(cudaSetDevice(options.device));
  return std::make_unique<CudaEngine>(source, options);
}

}  // namespace qdiff::optimized::cuda

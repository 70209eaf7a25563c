#include "optimized/cuda/planted_fault.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {
namespace {

// Rows that start too late end behind their matrix; the device's memory has room for some.
void check_lda(const ModelConfig& c, double value) {
  const auto excess = static_cast<std::int64_t>(value);
  const std::int64_t narrowest = std::min({c.hidden, c.q_width(), c.intermediate});
  const std::int64_t most_rows = std::max({c.hidden, c.q_width(), c.intermediate});
  const std::int64_t room = static_cast<std::int64_t>(kSlackBytes / sizeof(float)) / most_rows;
  if (excess > -narrowest && excess <= room) return;
  throw InputError("fault " + std::string(name(FaultId::kLda)) + ": rows of this model can start " +
                   std::to_string(1 - narrowest) + " to " + std::to_string(room) +
                   " elements later than they should, not " + std::to_string(excess));
}

}  // namespace

PlantedFault::PlantedFault(Race race) : race_(race) { count_from_zero(); }

PlantedFault::PlantedFault(const DeviceModel& model, const Fault& fault) : id_(fault.id), layer_(fault.layer) {
  const ModelConfig& c = model.config;
  check_plantable(fault);
  check_fault_layer(fault, c.num_layers);
  const std::vector<double>& values = fault_facts(id_).values;
  value_ = fault.value.value_or(values.empty() ? 0.0 : values.front());
  if (id_ == FaultId::kLda) check_lda(c, value_);
  count_from_zero();
  const Stream stream = make_stream();
  if (plants(PlantedStage::kRopeTable)) {
    rope_table_ = DeviceBuffer(model.rope_table.size());
    const double theta = id_ == FaultId::kTheta ? value_ : c.rope_theta;
    const auto rotated =
        static_cast<int>(id_ == FaultId::kHalfSlice ? c.head_dim / 2 / static_cast<int>(value_) * 2 : c.head_dim);
    launch_rope_table({rope_table_.as<float2>(), static_cast<int>(c.max_position_embeddings),
                       static_cast<int>(c.head_dim), rotated, theta, id_ == FaultId::kTableBf16},
                      stream.get());
  }
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
  if (plants(PlantedStage::kBiasVector)) make_bias(model, stream.get());
}

void PlantedFault::count_from_zero() {
  const Stream stream = make_stream();
  executions_ = DeviceBuffer(sizeof(unsigned long long));
  QDIFF_CUDA_CHECK(cudaMemsetAsync(executions_.data(), 0, sizeof(unsigned long long), stream.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
}

void PlantedFault::make_bias(const DeviceModel& model, cudaStream_t stream) {
  const ModelConfig& c = model.config;
  const auto q = static_cast<std::size_t>(c.q_width());
  const auto kv = static_cast<std::size_t>(c.kv_width());
  const std::size_t width = q + 2 * kv;
  std::vector<std::byte> all(model.qkv_bias.size() * width * size_of(model.dtype));
  for (std::size_t layer = 0; layer < model.qkv_bias.size(); ++layer) {
    std::vector<double> bias = model.qkv_bias[layer];
    const auto clear = [&bias](std::size_t begin, std::size_t count) {
      std::fill_n(bias.begin() + static_cast<std::ptrdiff_t>(begin), count, 0.0);
    };
    switch (id_) {
      case FaultId::kMissingQ:
        clear(0, q);
        break;
      case FaultId::kMissingK:
        clear(q, kv);
        break;
      case FaultId::kMissingV:
        clear(q + kv, kv);
        break;
      case FaultId::kMissingAll:
      case FaultId::kPrefillMissing:
      case FaultId::kDecodeMissing:
        clear(0, width);
        break;
      case FaultId::kBiasAfterRope:  // the kernel behind the rotation adds it
        clear(0, q + kv);
        break;
      case FaultId::kKvSwapped:
        std::swap_ranges(bias.begin() + static_cast<std::ptrdiff_t>(q),
                         bias.begin() + static_cast<std::ptrdiff_t>(q + kv),
                         bias.begin() + static_cast<std::ptrdiff_t>(q + kv));
        break;
      case FaultId::kBiasFp16:
        for (double& x : bias) x = round_to(DType::kF16, x);
        break;
      case FaultId::kBiasBf16:
        for (double& x : bias) x = round_to(DType::kBF16, x);
        break;
      default:
        break;
    }
    bias_differs_.push_back(bias != model.qkv_bias[layer]);
    for (std::size_t i = 0; i < width; ++i) store_element(all.data(), model.dtype, layer * width + i, bias[i]);
  }
  bias_row_bytes_ = width * size_of(model.dtype);
  bias_ = DeviceBuffer(all.size());
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(bias_.data(), all.data(), all.size(), cudaMemcpyHostToDevice, stream));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream));
}

const void* PlantedFault::bias(int layer) const {
  return bias_.bytes_at(static_cast<std::size_t>(layer) * bias_row_bytes_);
}

KernelFault PlantedFault::for_kernels() const {
  return {id_, race_, static_cast<float>(value_), executions_.as<unsigned long long>()};
}

std::int64_t PlantedFault::executions() const {
  unsigned long long count = 0;
  const Stream stream = make_stream();
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(&count, executions_.data(), sizeof(count), cudaMemcpyDeviceToHost, stream.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
  return host_executions_ + static_cast<std::int64_t>(count);
}

}  // namespace qdiff::optimized::cuda

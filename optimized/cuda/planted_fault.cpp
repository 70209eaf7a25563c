#include "optimized/cuda/planted_fault.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "harness/contract/error.h"
#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {
namespace {

bool between(FaultId id, FaultId first, FaultId last) { return id >= first && id <= last; }

// Rows that start too late end behind their matrix; the device's memory has room for some.
void check_lda(const ModelConfig& c, const Fault& fault) {
  const auto excess = static_cast<std::int64_t>(fault.value.value_or(1.0));
  const std::int64_t narrowest = std::min({c.hidden, c.q_width(), c.intermediate});
  const std::int64_t most_rows = std::max({c.hidden, c.q_width(), c.intermediate});
  const std::int64_t room = static_cast<std::int64_t>(kSlackBytes / sizeof(float)) / most_rows;
  if (excess > -narrowest && excess <= room) return;
  throw InputError("fault H07.lda: rows of this model can start " + std::to_string(1 - narrowest) + " to " +
                   std::to_string(room) + " elements later than they should, not " + std::to_string(excess));
}

}  // namespace

PlantedFault::PlantedFault(const DeviceModel& model, const Fault& fault, const std::vector<FaultRow>& rows)
    : layer_(fault.layer) {
  const FaultRow& row = find_fault(fault, rows);
  const ModelConfig& c = model.config;
  id_ = row.id;
  value_ = fault.value.value_or(row.default_value.value_or(0.0));
  if (layer_ && (*layer_ < 0 || *layer_ >= c.num_layers)) {
    throw InputError("fault " + fault.id + ": the model has no layer " + std::to_string(*layer_) + "; it has " +
                     std::to_string(c.num_layers));
  }
  if (id_ == FaultId::kLda) check_lda(c, fault);
  const Stream stream = make_stream();
  executions_ = DeviceBuffer(sizeof(unsigned long long));
  QDIFF_CUDA_CHECK(cudaMemsetAsync(executions_.data(), 0, sizeof(unsigned long long), stream.get()));
  if (id_ == FaultId::kTheta || id_ == FaultId::kHalfSlice || id_ == FaultId::kTableBf16) {
    rope_table_ = DeviceBuffer(model.rope_table.size());
    const double theta = id_ == FaultId::kTheta ? value_ : c.rope_theta;
    const auto rotated =
        static_cast<int>(id_ == FaultId::kHalfSlice ? c.head_dim / 2 / static_cast<int>(value_) * 2 : c.head_dim);
    launch_rope_table({rope_table_.as<float2>(), static_cast<int>(c.max_position_embeddings),
                       static_cast<int>(c.head_dim), rotated, theta, id_ == FaultId::kTableBf16},
                      stream.get());
  }
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
  if (between(id_, FaultId::kMissingQ, FaultId::kBiasAfterRope)) make_bias(model, stream.get());
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
      case FaultId::kBiasKvSwapped:
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
  return {id_, static_cast<float>(value_), executions_.as<unsigned long long>()};
}

std::int64_t PlantedFault::executions() const {
  unsigned long long count = 0;
  const Stream stream = make_stream();
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(&count, executions_.data(), sizeof(count), cudaMemcpyDeviceToHost, stream.get()));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
  return host_executions_ + static_cast<std::int64_t>(count);
}

bool plants_append(FaultId id) {
  return between(id, FaultId::kNoBatchStride, FaultId::kVIntoK) ||
         between(id, FaultId::kInterleaved, FaultId::kInterleaved) || between(id, FaultId::kQOnly, FaultId::kReverse) ||
         between(id, FaultId::kDecodePosZero, FaultId::kAfterCache) || id == FaultId::kBiasAfterRope ||
         between(id, FaultId::kWritePlusOne, FaultId::kWriteMinusOne);
}

bool plants_attention(FaultId id) {
  return between(id, FaultId::kNoBatchStride, FaultId::kNoLayerStride) ||
         between(id, FaultId::kScaleAfter, FaultId::kQkFp16) || between(id, FaultId::kModulo, FaultId::kDecodeOnly) ||
         between(id, FaultId::kReadMinusOne, FaultId::kFirstToken) ||
         between(id, FaultId::kNoMask, FaultId::kPadVisible);
}

bool plants_norm(FaultId id) { return between(id, FaultId::kLayerNorm, FaultId::kNoSqrt); }
bool plants_mlp(FaultId id) { return between(id, FaultId::kGateUpSwapped, FaultId::kNoSilu); }
bool plants_race(FaultId id) { return between(id, FaultId::kDelays, FaultId::kMissingWait); }
bool plants_cache_view(FaultId id) { return between(id, FaultId::kNoBatchStride, FaultId::kNoLayerStride); }

}  // namespace qdiff::optimized::cuda

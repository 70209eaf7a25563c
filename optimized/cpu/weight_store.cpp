#include "optimized/cpu/weight_store.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "harness/contract/error.h"
#include "optimized/cpu/engine.h"

namespace qdiff::optimized::cpu {
namespace {

constexpr std::int64_t kReadBlock = std::int64_t{1} << 20;  // elements converted at a time

using StoredAs = std::pair<Storage, DType>;
constexpr std::array<StoredAs, 3> kStoredAs = {
    {{Storage::kF32, DType::kF32}, {Storage::kBF16, DType::kBF16}, {Storage::kF16, DType::kF16}}};

}  // namespace

DType dtype_of(Storage storage) { return std::ranges::find(kStoredAs, storage, &StoredAs::first)->second; }

Storage storage_of(DType dtype) {
  const auto found = std::ranges::find(kStoredAs, dtype, &StoredAs::second);
  if (found != kStoredAs.end()) return found->first;
  throw InputError("cpu engine: it computes in float32, bfloat16 or float16, not in " + std::string(name(dtype)));
}

WeightStore::WeightStore(const WeightSource& source, Storage storage, const KernelSet& kernels,
                         std::int64_t max_resident_bytes)
    : source_(source), storage_(storage), kernels_(kernels) {
  const ModelConfig& config = source.config();
  for (const ModelWeight& weight : weights_of(config)) {
    const WeightInfo& info = source.find(weight.name);
    if (info.shape != weight.shape) {
      throw InputError(source.description() + ": weight \"" + info.name + "\" has shape " + to_string(info.shape) +
                       ", but the model's configuration asks for " + to_string(weight.shape));
    }
    total_bytes_ += num_elements(weight.shape) * storage_bytes(storage);
  }
  streams_ = max_resident_bytes > 0 && total_bytes_ > max_resident_bytes;
  layers_.resize(static_cast<std::size_t>(config.num_layers));
}

const WeightInfo& WeightStore::info_of(const TensorId& id) const {
  return source_.find(weight_name(id, 0, source_.config()));
}

void WeightStore::read_into(const WeightInfo& info, std::int64_t first, std::int64_t count,
                            std::byte* destination) const {
  const DType wanted = dtype_of(storage_);
  const auto wanted_bytes = static_cast<std::int64_t>(size_of(wanted));
  const auto stored_bytes = static_cast<std::int64_t>(size_of(info.dtype));
  if (info.dtype == wanted) {
    source_.read(info, first, count, {destination, static_cast<std::size_t>(count * wanted_bytes)});
    return;
  }
  std::vector<std::byte> stored(static_cast<std::size_t>(std::min(count, kReadBlock) * stored_bytes));
  std::vector<float> wide(static_cast<std::size_t>(std::min(count, kReadBlock)));
  for (std::int64_t done = 0; done < count; done += kReadBlock) {
    const std::int64_t n = std::min(kReadBlock, count - done);
    source_.read(info, first + done, n, {stored.data(), static_cast<std::size_t>(n * stored_bytes)});
    std::byte* out = destination + done * wanted_bytes;
    if (info.dtype == DType::kF64) {  // through float would round twice
      for (std::int64_t i = 0; i < n; ++i) {
        const auto index = static_cast<std::size_t>(i);
        store_element(out, wanted, index, load_element(stored.data(), DType::kF64, index));
      }
    } else {
      kernels_.widen(storage_of(info.dtype), stored.data(), wide.data(), n);
      kernels_.narrow(storage_, wide.data(), out, n);
    }
  }
}

Matrix WeightStore::read_rows(const WeightInfo& info, std::int64_t first, std::int64_t count) const {
  Matrix matrix{AlignedBuffer(count * info.shape[1] * storage_bytes(storage_)), count, info.shape[1]};
  read_into(info, first * matrix.columns, count * matrix.columns, matrix.data.data());
  return matrix;
}

Matrix WeightStore::read_matrix(const TensorId& id) const {
  const WeightInfo& info = info_of(id);
  return read_rows(info, 0, info.shape[0]);
}

std::vector<float> WeightStore::read_vector(const TensorId& id) const {
  const ModelConfig& config = source_.config();
  // The kernels add a bias to every projection; where the model has none, it is zero.
  if (!config.has(row(id.op).component)) {
    return std::vector<float>(static_cast<std::size_t>(weight_shape(id.op, 0, config)[0]));
  }
  const WeightInfo& info = info_of(id);
  const std::int64_t n = info.shape[0];
  AlignedBuffer rounded(n * storage_bytes(storage_));
  read_into(info, 0, n, rounded.data());
  std::vector<float> values(static_cast<std::size_t>(n));
  kernels_.widen(storage_, rounded.data(), values.data(), n);
  return values;
}

std::shared_ptr<const LayerWeights> WeightStore::layer(int index) {
  std::shared_ptr<const LayerWeights>& slot = layers_[static_cast<std::size_t>(index)];
  if (slot != nullptr) return slot;
  if (streams_) std::ranges::fill(layers_, nullptr);
  auto weights = std::make_shared<LayerWeights>();
  weights->input_layernorm = read_vector({Op::kInputLayernorm, index});
  weights->post_attention_layernorm = read_vector({Op::kPostAttentionLayernorm, index});
  weights->q_bias = read_vector({Op::kQProj, index});
  weights->k_bias = read_vector({Op::kKProj, index});
  weights->v_bias = read_vector({Op::kVProj, index});
  weights->q = read_matrix({Op::kQProjMatmul, index});
  weights->k = read_matrix({Op::kKProjMatmul, index});
  weights->v = read_matrix({Op::kVProjMatmul, index});
  weights->o = read_matrix({Op::kOProj, index});
  weights->gate = read_matrix({Op::kGateProj, index});
  weights->up = read_matrix({Op::kUpProj, index});
  weights->down = read_matrix({Op::kDownProj, index});
  slot = std::move(weights);
  return slot;
}

const std::vector<float>& WeightStore::final_norm() {
  if (final_norm_.empty()) final_norm_ = read_vector({Op::kNorm, kNoLayer});
  return final_norm_;
}

const Matrix& WeightStore::embedding() {
  if (embedding_.rows == 0) embedding_ = read_matrix({Op::kEmbedTokens, kNoLayer});
  return embedding_;
}

void WeightStore::copy_embedding_row(std::int64_t token, std::byte* destination) {
  const std::int64_t hidden = source_.config().hidden;
  if (streams_) {
    read_into(info_of({Op::kEmbedTokens, kNoLayer}), token * hidden, hidden, destination);
    return;
  }
  const std::int64_t row_bytes = hidden * storage_bytes(storage_);
  std::memcpy(destination, embedding().data.data() + token * row_bytes, static_cast<std::size_t>(row_bytes));
}

std::int64_t WeightStore::rows_at_once() const {
  const ModelConfig& config = source_.config();
  if (!streams_) return config.vocab;
  return std::clamp<std::int64_t>(kStreamedHeadBytes / (config.hidden * storage_bytes(storage_)), 1, config.vocab);
}

const Matrix& WeightStore::block_of(const WeightInfo& info, std::int64_t first, std::int64_t count) {
  vocab_block_ = {};  // before the next block is allocated
  vocab_block_ = read_rows(info, first, count);
  return vocab_block_;
}

const Matrix& WeightStore::lm_head_rows(std::int64_t first, std::int64_t count) {
  if (streams_) return block_of(info_of({Op::kLmHead, kNoLayer}), first, count);
  if (source_.config().tie_word_embeddings) return embedding();
  if (lm_head_.rows == 0) lm_head_ = read_matrix({Op::kLmHead, kNoLayer});
  return lm_head_;
}

const Matrix& WeightStore::embedding_rows(std::int64_t first, std::int64_t count) {
  return streams_ ? block_of(info_of({Op::kEmbedTokens, kNoLayer}), first, count) : embedding();
}

}  // namespace qdiff::optimized::cpu

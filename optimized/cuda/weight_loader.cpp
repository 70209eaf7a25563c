#include "optimized/cuda/weight_loader.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "harness/contract/error.h"

namespace qdiff::optimized::cuda {
namespace {

constexpr std::int64_t kChunkElements = std::int64_t{1} << 26;

}  // namespace

void WeightLoader::load(const TensorId& id, std::size_t index, void* base, std::int64_t first_in_base) {
  const ModelConfig& c = source_.config();
  if (!c.has(row(id.op).component)) return;  // the kernels add zeros
  const std::string name = weight_name(id, index, c);
  const Shape shape = weight_shape(id.op, index, c);
  const WeightInfo& info = source_.find(name);
  if (info.shape != shape) {
    throw InputError(source_.description() + ": weight \"" + name + "\" has shape " + to_string(info.shape) +
                     ", but the model's config makes it " + to_string(shape));
  }
  auto* destination = static_cast<std::byte*>(base) + static_cast<std::size_t>(first_in_base) * size_of(dtype_);
  const std::int64_t total = num_elements(shape);
  for (std::int64_t first = 0; first < total; first += kChunkElements) {
    const std::int64_t count = std::min(kChunkElements, total - first);
    const std::size_t bytes = static_cast<std::size_t>(count) * size_of(dtype_);
    if (staging_.size() < bytes) staging_ = PinnedBuffer(std::max<std::size_t>(bytes, 1U << 20));
    read_chunk(info, first, count, static_cast<std::byte*>(staging_.data()));
    QDIFF_CUDA_CHECK(cudaMemcpyAsync(destination + static_cast<std::size_t>(first) * size_of(dtype_), staging_.data(),
                                     bytes, cudaMemcpyHostToDevice, stream_.get()));
    QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  }
}

void WeightLoader::load_matrices(int layer, const LayerWeights& place) {
  const ModelConfig& c = source_.config();
  load({Op::kQProjMatmul, layer}, 0, place.qkv);
  load({Op::kKProjMatmul, layer}, 0, place.qkv, c.q_width() * c.hidden);
  load({Op::kVProjMatmul, layer}, 0, place.qkv, (c.q_width() + c.kv_width()) * c.hidden);
  load({Op::kOProj, layer}, 0, place.o_proj);
  load({Op::kGateProj, layer}, 0, place.gate_up);
  load({Op::kUpProj, layer}, 0, place.gate_up, c.intermediate * c.hidden);
  load({Op::kDownProj, layer}, 0, place.down_proj);
}

void WeightLoader::load_vectors(int layer, const LayerWeights& place) {
  const ModelConfig& c = source_.config();
  load({Op::kInputLayernorm, layer}, 0, place.input_norm);
  load({Op::kQProj, layer}, 0, place.qkv_bias);
  load({Op::kKProj, layer}, 0, place.qkv_bias, c.q_width());
  load({Op::kVProj, layer}, 0, place.qkv_bias, c.q_width() + c.kv_width());
  load({Op::kPostAttentionLayernorm, layer}, 0, place.post_norm);
}

std::vector<double> WeightLoader::read_biases(int layer) const {
  const ModelConfig& c = source_.config();
  std::vector<double> biases;
  for (const Op op : {Op::kQProj, Op::kKProj, Op::kVProj}) {
    if (!c.has(row(op).component)) {
      biases.resize(biases.size() + static_cast<std::size_t>(weight_shape(op, 0, c)[0]));
      continue;
    }
    for (const double value : to_doubles(source_.read_all(weight_name({op, layer}, 0, c)).view())) {
      biases.push_back(round_to(dtype_, value));
    }
  }
  return biases;
}

void WeightLoader::read_part(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const {
  const auto n = static_cast<std::size_t>(count);
  if (info.dtype == dtype_) {
    source_.read(info, first, count, {out, n * size_of(dtype_)});
    return;
  }
  std::vector<std::byte> raw(n * size_of(info.dtype));
  source_.read(info, first, count, raw);
  for (std::size_t i = 0; i < n; ++i) store_element(out, dtype_, i, load_element(raw.data(), info.dtype, i));
}

void WeightLoader::read_chunk(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const {
  constexpr std::int64_t kSmall = 1 << 16;
  const auto num_threads =
      static_cast<std::int64_t>(count <= kSmall ? 1U : std::clamp(std::thread::hardware_concurrency(), 1U, 32U));
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(num_threads));
  std::vector<std::thread> threads;
  const auto work = [&](std::int64_t index) {
    const std::int64_t begin = count * index / num_threads;
    const std::int64_t end = count * (index + 1) / num_threads;
    try {
      read_part(info, first + begin, end - begin, out + static_cast<std::size_t>(begin) * size_of(dtype_));
    } catch (...) {
      failures[static_cast<std::size_t>(index)] = std::current_exception();
    }
  };
  for (std::int64_t i = 1; i < num_threads; ++i) threads.emplace_back(work, i);
  work(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

}  // namespace qdiff::optimized::cuda

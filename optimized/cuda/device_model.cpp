#include "optimized/cuda/device_model.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::int64_t kChunkElements = std::int64_t{1} << 26;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Reads weights in chunks, with all processors (a synthetic model computes what it "reads"), and rounds them.
class Loader {
 public:
  Loader(const WeightSource& source, DType dtype, cudaStream_t stream)
      : source_(source), dtype_(dtype), stream_(stream) {}

  void load(const std::string& name, const Shape& shape, void* destination) {
    const WeightInfo& info = source_.find(name);
    if (info.shape != shape) {
      throw InputError(source_.description() + ": weight \"" + name + "\" has shape " + to_string(info.shape) +
                       ", but the model's config makes it " + to_string(shape));
    }
    const std::int64_t total = num_elements(shape);
    for (std::int64_t first = 0; first < total; first += kChunkElements) {
      const std::int64_t count = std::min(kChunkElements, total - first);
      const std::size_t bytes = static_cast<std::size_t>(count) * size_of(dtype_);
      if (staging_.size() < bytes) staging_ = PinnedBuffer(std::max<std::size_t>(bytes, 1U << 20));
      read_chunk(info, first, count, static_cast<std::byte*>(staging_.data()));
      QDIFF_CUDA_CHECK(
          cudaMemcpyAsync(static_cast<std::byte*>(destination) + static_cast<std::size_t>(first) * size_of(dtype_),
                          staging_.data(), bytes, cudaMemcpyHostToDevice, stream_));
      QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream_));
    }
  }

  std::vector<double> read_rounded(const std::string& name) const {
    std::vector<double> values = to_doubles(source_.read_all(name).view());
    for (double& value : values) value = round_to(dtype_, value);
    return values;
  }

 private:
  void read_part(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const {
    const auto n = static_cast<std::size_t>(count);
    if (info.dtype == dtype_) {
      source_.read(info, first, count, {out, n * size_of(dtype_)});
      return;
    }
    std::vector<std::byte> raw(n * size_of(info.dtype));
    source_.read(info, first, count, raw);
    for (std::size_t i = 0; i < n; ++i) store_element(out, dtype_, i, load_element(raw.data(), info.dtype, i));
  }

  void read_chunk(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* out) const {
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

  const WeightSource& source_;
  DType dtype_;
  cudaStream_t stream_;
  PinnedBuffer staging_;
};

// Sets the addresses, from `base` on, and returns the bytes that they take.
std::size_t lay_out(DeviceModel& model, std::byte* base) {
  const ModelConfig& c = model.config;
  std::size_t at = 0;
  const auto take = [&](std::int64_t elements) -> void* {
    void* address = base == nullptr ? nullptr : base + at;
    at += aligned(static_cast<std::size_t>(elements) * size_of(model.dtype));
    return address;
  };
  const std::int64_t qkv_width = c.q_width() + 2 * c.kv_width();
  model.embedding = take(padded_vocab(c) * c.hidden);
  model.layers.assign(static_cast<std::size_t>(c.num_layers), {});
  for (LayerWeights& layer : model.layers) {
    layer.input_norm = take(c.hidden);
    layer.qkv = take(qkv_width * c.hidden);
    layer.qkv_bias = take(qkv_width);
    layer.o_proj = take(c.hidden * c.q_width());
    layer.post_norm = take(c.hidden);
    layer.gate_up = take(2 * c.intermediate * c.hidden);
    layer.down_proj = take(c.hidden * c.intermediate);
  }
  model.norm = take(c.hidden);
  model.lm_head = c.tie_word_embeddings ? model.embedding : take(padded_vocab(c) * c.hidden);
  return at + kSlackBytes;
}

}  // namespace

DeviceModel load_device_model(const WeightSource& source, DType dtype) {
  DeviceModel model;
  model.config = source.config();
  model.dtype = dtype;
  const ModelConfig& c = model.config;

  const std::size_t bytes = lay_out(model, nullptr);
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  QDIFF_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  if (bytes > free_bytes) {
    throw CannotJudgeError(source.description() + " takes " + std::to_string(bytes >> 20) +
                           " MiB on the GPU, which has " + std::to_string(free_bytes >> 20) +
                           " MiB free; take a smaller model or another GPU");
  }
  model.memory = DeviceBuffer(bytes);
  lay_out(model, model.memory.as<std::byte>());
  // A stream of its own: waiting for the whole device would break into what another session is capturing.
  const Stream stream = make_stream();
  QDIFF_CUDA_CHECK(cudaMemsetAsync(model.memory.data(), 0, bytes, stream.get()));

  Loader loader(source, dtype, stream.get());
  const auto load = [&](Op op, std::size_t index, int layer, void* base, std::int64_t first) {
    if (!c.has(row(op).component)) return;  // the kernels add zeros
    loader.load(weight_name({op, layer}, index, c), weight_shape(op, index, c),
                static_cast<std::byte*>(base) + static_cast<std::size_t>(first) * size_of(dtype));
  };
  load(Op::kEmbedTokens, 0, kNoLayer, model.embedding, 0);
  for (int i = 0; i < static_cast<int>(c.num_layers); ++i) {
    const LayerWeights& layer = model.layers[static_cast<std::size_t>(i)];
    load(Op::kInputLayernorm, 0, i, layer.input_norm, 0);
    load(Op::kQProjMatmul, 0, i, layer.qkv, 0);
    load(Op::kKProjMatmul, 0, i, layer.qkv, c.q_width() * c.hidden);
    load(Op::kVProjMatmul, 0, i, layer.qkv, (c.q_width() + c.kv_width()) * c.hidden);
    load(Op::kQProj, 0, i, layer.qkv_bias, 0);
    load(Op::kKProj, 0, i, layer.qkv_bias, c.q_width());
    load(Op::kVProj, 0, i, layer.qkv_bias, c.q_width() + c.kv_width());
    load(Op::kOProj, 0, i, layer.o_proj, 0);
    load(Op::kPostAttentionLayernorm, 0, i, layer.post_norm, 0);
    load(Op::kGateProj, 0, i, layer.gate_up, 0);
    load(Op::kUpProj, 0, i, layer.gate_up, c.intermediate * c.hidden);
    load(Op::kDownProj, 0, i, layer.down_proj, 0);
    std::vector<double> bias;
    for (const Op op : {Op::kQProj, Op::kKProj, Op::kVProj}) {
      if (!c.has(row(op).component)) {
        bias.resize(bias.size() + static_cast<std::size_t>(weight_shape(op, 0, c)[0]));
        continue;
      }
      const std::vector<double> part = loader.read_rounded(weight_name({op, i}, 0, c));
      bias.insert(bias.end(), part.begin(), part.end());
    }
    model.qkv_bias.push_back(std::move(bias));
  }
  load(Op::kNorm, 0, kNoLayer, model.norm, 0);
  if (!c.tie_word_embeddings) load(Op::kLmHead, 0, kNoLayer, model.lm_head, 0);

  const std::int64_t entries = c.max_position_embeddings * (c.head_dim / 2);
  model.rope_table = DeviceBuffer(static_cast<std::size_t>(entries) * sizeof(float2));
  launch_rope_table({model.rope_table.as<float2>(), static_cast<int>(c.max_position_embeddings),
                     static_cast<int>(c.head_dim), static_cast<int>(c.head_dim), c.rope_theta, false},
                    stream.get());
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream.get()));
  return model;
}

}  // namespace qdiff::optimized::cuda

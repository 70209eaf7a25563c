#include "optimized/cuda/device_model.h"

#include <algorithm>
#include <string>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {
namespace {

// Sets the addresses, from `base` on, and returns the bytes that they take. The matrices of the layers that are not
// resident all have the addresses of the first of these.
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
  for (int i = 0; i < static_cast<int>(c.num_layers); ++i) {
    LayerWeights& layer = model.layers[static_cast<std::size_t>(i)];
    if (i > model.resident_layers) layer = model.layers[static_cast<std::size_t>(model.resident_layers)];
    const bool has_place = i <= model.resident_layers;
    layer.input_norm = take(c.hidden);
    if (has_place) layer.qkv = take(qkv_width * c.hidden);
    layer.qkv_bias = take(qkv_width);
    if (has_place) layer.o_proj = take(c.hidden * c.q_width());
    layer.post_norm = take(c.hidden);
    if (has_place) layer.gate_up = take(2 * c.intermediate * c.hidden);
    if (has_place) layer.down_proj = take(c.hidden * c.intermediate);
  }
  model.norm = take(c.hidden);
  model.lm_head = c.tie_word_embeddings ? model.embedding : take(padded_vocab(c) * c.hidden);
  return at + kSlackBytes;
}

std::string mebibytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

// The most layers that `room` has space for, all of them if it can be.
int layers_with_room(const WeightSource& source, const Options& options, std::size_t free_bytes) {
  const ModelConfig& c = source.config();
  const auto num_layers = static_cast<int>(c.num_layers);
  const auto spare = static_cast<std::size_t>(options.spare_bytes);
  std::size_t room = free_bytes > spare ? free_bytes - spare : 0;
  if (options.max_resident_bytes > 0) room = std::min(room, static_cast<std::size_t>(options.max_resident_bytes));
  for (int resident = num_layers; resident >= 0; --resident) {
    if (weight_bytes(c, options.dtype, resident) <= room) return resident;
  }
  throw CannotJudgeError(
      source.description() + " takes " + mebibytes(weight_bytes(c, options.dtype, num_layers)) + " on the GPU, and " +
      mebibytes(weight_bytes(c, options.dtype, 0)) + " with one layer at a time; of " + mebibytes(free_bytes) +
      " that are free there, it may have " + mebibytes(room) + "; take a smaller model or another GPU");
}

}  // namespace

std::size_t weight_bytes(const ModelConfig& config, DType dtype, int resident_layers) {
  DeviceModel model;
  model.config = config;
  model.dtype = dtype;
  model.resident_layers = resident_layers;
  return lay_out(model, nullptr);
}

DeviceModel load_device_model(const WeightSource& source, const Options& options) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  QDIFF_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  DeviceModel model;
  model.config = source.config();
  model.dtype = options.dtype;
  model.resident_layers = layers_with_room(source, options, free_bytes);
  const ModelConfig& c = model.config;
  const auto num_layers = static_cast<int>(c.num_layers);

  const std::size_t bytes = lay_out(model, nullptr);
  model.memory = DeviceBuffer(bytes);
  lay_out(model, model.memory.as<std::byte>());
  WeightLoader loader(source, options.dtype);
  QDIFF_CUDA_CHECK(cudaMemsetAsync(model.memory.data(), 0, bytes, loader.stream()));

  loader.load({Op::kEmbedTokens}, 0, model.embedding);
  for (int i = 0; i < num_layers; ++i) {
    if (options.progress) options.progress(i, num_layers);
    const LayerWeights& layer = model.layers[static_cast<std::size_t>(i)];
    loader.load_vectors(i, layer);
    if (i < model.resident_layers) loader.load_matrices(i, layer);
    model.qkv_bias.push_back(loader.read_biases(i));
  }
  loader.load({Op::kNorm}, 0, model.norm);
  if (!c.tie_word_embeddings) loader.load({Op::kLmHead}, 0, model.lm_head);

  const std::int64_t entries = c.max_position_embeddings * (c.head_dim / 2);
  model.rope_table = DeviceBuffer(static_cast<std::size_t>(entries) * sizeof(float2));
  launch_rope_table({model.rope_table.as<float2>(), static_cast<int>(c.max_position_embeddings),
                     static_cast<int>(c.head_dim), static_cast<int>(c.head_dim), c.rope_theta, false},
                    loader.stream());
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(loader.stream()));
  if (model.resident_layers < num_layers) {
    const LayerWeights& place = model.layers[static_cast<std::size_t>(model.resident_layers)];
    model.turns = std::make_unique<LayerTurns>(source, options.dtype, place);
  }
  return model;
}

}  // namespace qdiff::optimized::cuda

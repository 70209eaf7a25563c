// Raw weights by name and by range, so that a model larger than memory can be walked layer by layer.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/tensor.h"

namespace qdiff {

struct WeightInfo {
  std::string name;  // as in a Hugging Face checkpoint: "model.layers.0.self_attn.q_proj.weight"
  DType dtype = DType::kBF16;
  Shape shape;
  // Where the file holds the values in another form than `dtype`, its name: "Q4_K", one of ggml's blocks.
  std::string stored_as = {};
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  // What `--model` would have to be to get this model again.
  virtual const std::string& description() const = 0;
  // Those that weights_of(config()) names.
  virtual const std::vector<WeightInfo>& weights() const = 0;
  // Copies elements [first, first + count) (row-major, stored dtype) into `destination`, which has exactly that many
  // bytes. Throws qdiff::InputError where the file cannot be read. Thread-safe.
  virtual void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
                    std::span<std::byte> destination) const = 0;

  // Throws qdiff::InputError naming the weight if the model lacks it.
  const WeightInfo& find(const std::string& name) const;
  Tensor read_all(const std::string& name) const;
};

}  // namespace qdiff

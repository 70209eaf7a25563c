// A weight source that can say more about where its config came from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::model {

// A key of the model's file, and what a published Qwen2.5 has there: empty where that says nothing, or many things.
struct FileKey {
  std::string name, value, usual;
  bool differs = false;  // from what is usual, and no value of the config says so
};

class NotedSource : public WeightSource {
 public:
  const ModelConfig& config() const final { return config_; }
  const std::string& description() const final { return description_; }
  const std::vector<WeightInfo>& weights() const final { return weights_; }
  // Says what kind of model it is and how it is stored: "Hugging Face directory, 2 shards".
  const std::string& storage() const { return storage_; }
  // One sentence each: defaults that were used because the file says nothing, tensors that were left aside.
  const std::vector<std::string>& notes() const { return notes_; }
  // What the file says of the model, key by key; nothing where config() says it all.
  virtual std::vector<FileKey> keys() const { return {}; }
  // Bytes that a weight takes in the file.
  virtual std::uint64_t stored_bytes(const WeightInfo& info) const {
    return static_cast<std::uint64_t>(num_elements(info.shape)) * size_of(info.dtype);
  }

 protected:
  ModelConfig config_;
  std::string description_, storage_;
  std::vector<std::string> notes_;
  std::vector<WeightInfo> weights_;
};

}  // namespace qdiff::model

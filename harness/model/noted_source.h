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
  // Says what kind of model it is and how it is stored: "Hugging Face directory, 2 shards".
  virtual const std::string& storage() const = 0;
  // One sentence each: defaults that were used because the file says nothing, tensors that were left aside.
  virtual const std::vector<std::string>& notes() const = 0;
  // What the file says of the model, key by key; nothing where config() says it all.
  virtual std::vector<FileKey> keys() const { return {}; }
  // Bytes that a weight takes in the file.
  virtual std::uint64_t stored_bytes(const WeightInfo& info) const {
    return static_cast<std::uint64_t>(num_elements(info.shape)) * size_of(info.dtype);
  }
};

}  // namespace qdiff::model

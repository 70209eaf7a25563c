// What scripts/make_goldens.py wrote, read without the program's own readers: the test of the reference needs no other
// room, and these files are ours and well formed.
#pragma once

#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::reference {

inline std::string golden_folder() { return std::string(QDIFF_SOURCE_DIR) + "/reference/tests/data/"; }

inline nlohmann::json read_json(const std::string& path) { return nlohmann::json::parse(std::ifstream(path)); }

// Every tensor of a safetensors file: 8 bytes N, N bytes of JSON, the data.
inline std::map<std::string, Tensor> read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 8) throw std::runtime_error(path + " is missing or empty; scripts/make_goldens.py makes it");
  std::uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  const char* data = bytes.data() + 8 + header_bytes;
  const nlohmann::json header = nlohmann::json::parse(bytes.data() + 8, data);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    Tensor tensor(parse_dtype(entry.at("dtype").get<std::string>()).value(), entry.at("shape").get<Shape>());
    std::memcpy(tensor.bytes().data(), data + entry.at("data_offsets").at(0).get<std::size_t>(), tensor.bytes().size());
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

class GoldenModel : public WeightSource {
 public:
  GoldenModel() : values_(read_safetensors(golden_folder() + "golden-model/model.safetensors")) {
    const nlohmann::json file = read_json(golden_folder() + "golden-model/config.json");
    config_.hidden = file.at("hidden_size");
    config_.num_layers = file.at("num_hidden_layers");
    config_.num_q_heads = file.at("num_attention_heads");
    config_.num_kv_heads = file.at("num_key_value_heads");
    config_.head_dim = file.at("head_dim");
    config_.intermediate = file.at("intermediate_size");
    config_.vocab = file.at("vocab_size");
    config_.rms_norm_eps = file.at("rms_norm_eps");
    config_.rope_theta = file.at("rope_parameters").at("rope_theta");
    config_.max_position_embeddings = file.at("max_position_embeddings");
    config_.validate();
    for (const auto& [name, tensor] : values_) names_.push_back({name, tensor.dtype(), tensor.shape()});
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return names_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const std::size_t size = size_of(info.dtype);
    std::memcpy(destination.data(), values_.at(info.name).bytes().data() + static_cast<std::size_t>(first) * size,
                static_cast<std::size_t>(count) * size);
  }

 private:
  std::map<std::string, Tensor> values_;
  ModelConfig config_;
  std::string description_ = "golden model";
  std::vector<WeightInfo> names_;
};

}  // namespace qdiff::reference

// Writes GGUF files for tests, right ones and wrong ones: every number can be given as it should not be.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/formats/gguf.h"

namespace qdiff::testing {

inline std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
  return text;
}
inline std::string u32(std::uint64_t value) { return little_endian(value, 4); }
inline std::string u64(std::uint64_t value) { return little_endian(value, 8); }
inline std::string f32(float value) { return u32(std::bit_cast<std::uint32_t>(value)); }
inline std::string gguf_string(std::string_view text) { return u64(text.size()) + std::string(text); }

class GgufBuilder {
 public:
  std::uint32_t version = 3;
  std::uint64_t alignment = 32;  // with which it lays out; key("general.alignment") is the caller's
  std::string magic = "GGUF";

  GgufBuilder& key(std::string_view name, formats::GgufType type, const std::string& value) {
    keys_.push_back(gguf_string(name) + u32(static_cast<std::uint32_t>(type)) + value);
    return *this;
  }
  GgufBuilder& key(std::string_view name, std::uint32_t value) {
    return key(name, formats::GgufType::kUint32, u32(value));
  }
  GgufBuilder& key(std::string_view name, float value) { return key(name, formats::GgufType::kFloat32, f32(value)); }
  GgufBuilder& key(std::string_view name, std::string_view value) {
    return key(name, formats::GgufType::kString, gguf_string(value));
  }
  GgufBuilder& key(std::string_view name, const std::vector<std::string>& values) {
    std::string text = u32(8) + u64(values.size());
    for (const std::string& value : values) text += gguf_string(value);
    return key(name, formats::GgufType::kArray, text);
  }
  GgufBuilder& without(std::string_view name) {
    std::erase_if(keys_, [&](const std::string& entry) { return entry.starts_with(gguf_string(name)); });
    return *this;
  }

  // `ne` in ggml's order. The offset is where the data lies.
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& ne, formats::GgmlType type,
                      const std::string& data) {
    raw_tensor(name, static_cast<std::uint32_t>(ne.size()), ne, static_cast<std::uint32_t>(type), data_.size());
    data_ += data;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment, '\0');
    return *this;
  }
  GgufBuilder& raw_tensor(std::string_view name, std::uint32_t num_dimensions, const std::vector<std::uint64_t>& ne,
                          std::uint32_t type, std::uint64_t offset) {
    std::string info = gguf_string(name) + u32(num_dimensions);
    for (std::uint64_t extent : ne) info += u64(extent);
    tensors_.push_back(info + u32(type) + u64(offset));
    return *this;
  }

  std::string header() const {
    std::string text = magic + u32(version) + u64(tensors_.size()) + u64(keys_.size());
    for (const std::string& entry : keys_) text += entry;
    for (const std::string& info : tensors_) text += info;
    return text;
  }
  std::string file() const {
    std::string text = header();
    text.resize((text.size() + alignment - 1) / alignment * alignment, '\0');
    return text + data_;
  }

 private:
  std::vector<std::string> keys_, tensors_;
  std::string data_;
};

}  // namespace qdiff::testing

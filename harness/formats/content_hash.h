// A number that stands for bytes: equal bytes have the same on every machine, and by accident no others do. It is no
// defence against somebody who wants two inputs of the same number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qdiff::formats {

class ContentHash {
 public:
  // Each call adds a piece with its length, so that "ab", "c" is not "a", "bc".
  ContentHash& add(std::span<const std::byte> bytes);
  ContentHash& add(std::string_view text);
  ContentHash& add(std::uint64_t number);
  std::string text() const;  // 16 hexadecimal digits

 private:
  std::uint64_t state_ = 0;
};

}  // namespace qdiff::formats

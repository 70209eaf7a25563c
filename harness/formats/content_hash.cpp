#include "harness/formats/content_hash.h"

#include <cstring>

#include "harness/contract/splitmix64.h"

namespace qdiff::formats {

ContentHash& ContentHash::add(std::uint64_t number) {
  state_ = splitmix64((state_ ^ number) + kGoldenGamma);
  return *this;
}

ContentHash& ContentHash::add(std::span<const std::byte> bytes) {
  add(std::uint64_t{bytes.size()});
  while (!bytes.empty()) {
    std::uint64_t word = 0;
    const std::size_t count = std::min(bytes.size(), sizeof(word));
    std::memcpy(&word, bytes.data(), count);
    add(word);
    bytes = bytes.subspan(count);
  }
  return *this;
}

ContentHash& ContentHash::add(std::string_view text) { return add(std::as_bytes(std::span(text.data(), text.size()))); }

std::string ContentHash::text() const {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += kDigits[state_ >> shift & 15U];
  return text;
}

}  // namespace qdiff::formats

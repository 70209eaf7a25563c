// What a fuzz target asks of a reader: for any bytes a value, or one line of complaint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "harness/contract/error.h"

namespace qdiff::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Any other exception escapes, which libFuzzer reports, as it does for a message that would not be one line of a
// terminal.
template <typename Read>
void value_or_complaint(Read read) {
  try {
    read();
  } catch (const InputError& error) {
    for (const char c : std::string_view(error.what())) {
      if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7F) continue;
      std::fprintf(stderr, "a control character in the message: %s\n", error.what());
      std::abort();
    }
  }
}

}  // namespace qdiff::fuzz

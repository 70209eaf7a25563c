// Well-formed UTF-8, as the Unicode Standard's table 3-7 defines it.
#pragma once

#include <cstddef>
#include <string_view>

namespace qdiff::formats {

// Bytes of the well-formed sequence that starts at text[at]; 0 where there is none (overlong forms, surrogates, values
// beyond U+10FFFF, stray or missing continuation bytes).
std::size_t utf8_length_at(std::string_view text, std::size_t at);

// Offset of the first byte that starts no well-formed sequence; text.size() where all is well.
std::size_t find_invalid_utf8(std::string_view text);

}  // namespace qdiff::formats

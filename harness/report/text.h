// Text from files made harmless for where it is shown.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qdiff::report {

// Without control characters (C0, DEL, C1) and without the Unicode controls that reorder text (bidirectional marks,
// embeddings, overrides and isolates); what is not UTF-8 becomes U+FFFD. A line break or tab becomes a space.
std::string terminal_text(std::string_view text);

// The same characters dropped, and < > & " ' as entities: fit for element content and for attribute values.
std::string xml_text(std::string_view text);

// Columns that UTF-8 text takes, counted as one for each character.
std::size_t display_width(std::string_view text);

// Followed by spaces up to `width` columns.
std::string padded_to(std::string_view text, std::size_t width);
// Behind spaces up to `width` bytes.
std::string at_right(const std::string& text, std::size_t width);

// Words in lines of at most `width` columns; a longer word has a line of its own.
std::vector<std::string> wrapped_lines(std::string_view text, std::size_t width);
// The same lines, each behind the first after `line_start`.
std::string wrapped(std::string_view text, std::size_t width, std::string_view line_start);

}  // namespace qdiff::report

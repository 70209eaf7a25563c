// "did you mean ...?": the known name nearest to one that is not known.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qdiff::formats {

// Fewest insertions, deletions, substitutions and swaps of neighbours that turn one into the other (optimal string
// alignment distance; case counts). Only the first 256 bytes of each are looked at.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidate with the smallest distance, the first of equals, provided that it is near enough to be a slip: at most
// 1 + a third of the name's length, where capital letters are as good as small ones. Where none is within one letter,
// the shortest of those that the name is the beginning of; where none is at all, the only one that holds it.
std::optional<std::string> nearest_name(std::string_view name, std::span<const std::string> candidates);

// "; did you mean \"seed\"?" or, where nothing is near, an empty string.
std::string suggestion(std::string_view name, std::span<const std::string> candidates);

// Makes text from a file fit for a terminal and for one line: control characters and bytes that are not UTF-8 become
// \xNN, quotes stay, and beyond `max_bytes` it ends in "...".
std::string printable(std::string_view text, std::size_t max_bytes = 120);
// The same between double quotes.
std::string in_quotes(std::string_view text);

}  // namespace qdiff::formats

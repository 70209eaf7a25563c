#include "harness/formats/suggest.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "harness/formats/utf8.h"

namespace qdiff::formats {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  constexpr std::size_t kLongest = 256;
  a = a.substr(0, kLongest);
  b = b.substr(0, kLongest);
  std::vector<std::size_t> two_above, above(b.size() + 1), current(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) current[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    two_above = above;
    above = current;
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substitution = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({above[j] + 1, current[j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], two_above[j - 2] + 1);
      }
    }
  }
  return current[b.size()];
}

namespace {

// Other names for element types and for what else one asks for, which no count of letters brings near ours.
constexpr std::pair<std::string_view, std::string_view> kOtherNames[] = {
    {"bf16", "bfloat16"}, {"fp16", "float16"},  {"f16", "float16"},    {"half", "float16"}, {"fp32", "float32"},
    {"f32", "float32"},   {"float", "float32"}, {"fp64", "float64"},   {"f64", "float64"},  {"double", "float64"},
    {"gpu", "cuda"},      {"bugs", "faults"},   {"variants", "faults"}};

std::string lowered(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return lower;
}

}  // namespace

std::optional<std::string> nearest_name(std::string_view name, std::span<const std::string> candidates) {
  const std::string lower = lowered(name);
  for (const auto& [other, full] : kOtherNames) {
    const auto found = std::ranges::find(candidates, full);
    if (lower == other && found != candidates.end()) return *found;
  }
  std::optional<std::string> nearest;
  std::size_t smallest = 1 + name.size() / 3;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(lower, lowered(candidate));
    if (distance < smallest || (distance == smallest && !nearest)) {
      smallest = distance;
      nearest = candidate;
    }
  }
  constexpr std::size_t kLeastBeginning = 4;  // "--x" begins too many to mean one
  constexpr std::size_t kLeastPart = 3;
  if (nearest && smallest <= 1) return nearest;
  if (name.size() >= kLeastBeginning) {
    std::optional<std::string> begun;
    for (const std::string& candidate : candidates) {
      if (candidate.starts_with(name) && (!begun || candidate.size() < begun->size())) begun = candidate;
    }
    if (begun) return begun;
  }
  if (nearest || name.size() < kLeastPart) return nearest;
  const auto holds_name = [name](const std::string& candidate) { return candidate.find(name, 1) != std::string::npos; };
  if (std::ranges::count_if(candidates, holds_name) == 1) return *std::ranges::find_if(candidates, holds_name);
  return std::nullopt;
}

std::string suggestion(std::string_view name, std::span<const std::string> candidates) {
  const std::optional<std::string> nearest = nearest_name(name, candidates);
  return nearest ? "; did you mean \"" + *nearest + "\"?" : std::string();
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t length = utf8_length_at(text, at);
    const auto byte = static_cast<unsigned char>(text[at]);
    // U+0080..U+009F are control characters too, and U+202A..U+202E and U+2066..U+2069 turn the line around.
    const bool c1 = length == 2 && byte == 0xC2 && static_cast<unsigned char>(text[at + 1]) < 0xA0;
    const std::string_view sequence = text.substr(at, length);
    const bool bidirectional =
        length == 3 && ((sequence >= "\u202A" && sequence <= "\u202E") ||
                        (sequence >= "\u2066" && sequence <= "\u2069") || sequence == "\u2028" || sequence == "\u2029");
    std::string piece;
    if (length == 0 || byte < 0x20 || byte == 0x7F || c1 || bidirectional) {
      for (std::size_t i = 0; i < std::max<std::size_t>(length, 1); ++i) {
        char escaped[5];
        std::snprintf(escaped, sizeof escaped, "\\x%02X", static_cast<unsigned char>(text[at + i]));
        piece += escaped;
      }
    } else {
      piece = sequence;
    }
    if (out.size() + piece.size() > max_bytes) return out + "...";
    out += piece;
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

}  // namespace qdiff::formats

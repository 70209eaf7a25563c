#include "harness/report/text.h"

#include <algorithm>

#include "harness/contract/wording.h"
#include "harness/formats/utf8.h"

namespace qdiff::report {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

char32_t decode(std::string_view sequence) {
  const auto lead = static_cast<unsigned char>(sequence.front());
  if (sequence.size() == 1) return lead;
  char32_t code = lead & (0xFFU >> (sequence.size() + 1));
  for (char c : sequence.substr(1)) code = (code << 6) | (static_cast<unsigned char>(c) & 0x3FU);
  return code;
}

bool is_line_break_or_tab(char32_t code) { return code == '\n' || code == '\r' || code == '\t'; }

// Drives a terminal, reorders what stands around it, or is no character of XML 1.0.
bool is_harmful(char32_t code) {
  const auto within = [code](char32_t first, char32_t last) { return code >= first && code <= last; };
  return within(0x00, 0x1F) || within(0x7F, 0x9F) || code == 0x061C || within(0x200E, 0x200F) ||
         within(0x2028, 0x202E) || within(0x2066, 0x2069) || within(0xFFFE, 0xFFFF);
}

template <typename Put>
void for_each_harmless(std::string_view text, const Put& put) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = formats::utf8_length_at(text, at);
    if (length == 0) {
      put(kReplacement);
      ++at;
      continue;
    }
    const std::string_view sequence = text.substr(at, length);
    const char32_t code = decode(sequence);
    if (is_line_break_or_tab(code)) {
      put(" ");
    } else if (!is_harmful(code)) {
      put(sequence);
    }
    at += length;
  }
}

}  // namespace

std::string terminal_text(std::string_view text) {
  std::string result;
  for_each_harmless(text, [&](std::string_view sequence) { result += sequence; });
  return result;
}

std::string xml_text(std::string_view text) {
  std::string result;
  for_each_harmless(text, [&](std::string_view sequence) {
    if (sequence == "<") {
      result += "&lt;";
    } else if (sequence == ">") {
      result += "&gt;";
    } else if (sequence == "&") {
      result += "&amp;";
    } else if (sequence == "\"") {
      result += "&quot;";
    } else if (sequence == "'") {
      result += "&apos;";
    } else {
      result += sequence;
    }
  });
  return result;
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (char c : text) width += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
  return width;
}

std::string padded_to(std::string_view text, std::size_t width) {
  const std::size_t columns = display_width(text);
  return std::string(text) + std::string(columns < width ? width - columns : 0, ' ');
}

std::string at_right(const std::string& text, std::size_t width) {
  return std::string(text.size() < width ? width - text.size() : 0, ' ') + text;
}

std::vector<std::string> wrapped_lines(std::string_view text, std::size_t width) {
  std::vector<std::string> lines;
  std::size_t columns = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    at = end + 1;
    if (word.empty()) continue;
    if (lines.empty() || columns + 1 + display_width(word) > width) {
      lines.emplace_back(word);
      columns = display_width(word);
    } else {
      lines.back() += ' ';
      lines.back() += word;
      columns += 1 + display_width(word);
    }
  }
  return lines;
}

std::string wrapped(std::string_view text, std::size_t width, std::string_view line_start) {
  return qdiff::joined(wrapped_lines(text, width), '\n' + std::string(line_start));
}

}  // namespace qdiff::report

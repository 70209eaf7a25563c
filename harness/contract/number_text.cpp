#include "harness/contract/number_text.h"

#include <array>
#include <charconv>
#include <cstdlib>

namespace qdiff {
namespace {

std::string text_of(double value, std::chars_format format, int precision) {
  std::array<char, 336> text{};  // the largest double has 309 digits before the point
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value, format, precision);
  return {text.data(), end};
}

}  // namespace

std::string digits(double value, int significant) { return text_of(value, std::chars_format::general, significant); }

std::string shortest(double value) {
  std::array<char, 40> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), end};
}

double to_digits(double value, int significant) { return std::strtod(digits(value, significant).c_str(), nullptr); }

std::string decimals(double value, int behind_point) { return text_of(value, std::chars_format::fixed, behind_point); }

}  // namespace qdiff

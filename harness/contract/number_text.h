// Numbers as text, as printf writes them in the "C" locale.
#pragma once

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace qdiff {

// "%.*g": at most so many significant digits, from 1 to 17, without zeros at the end.
std::string digits(double value, int significant);

// As few digits as read back the same.
std::string shortest(double value);

// The number that digits() writes.
double to_digits(double value, int significant);

// "%.*f": so many digits behind the point, at most 17.
std::string decimals(double value, int behind_point);

// The number that the whole text is: no space, no '+', nothing behind; nothing where it is none, or out of T's range.
template <typename T>
std::optional<T> number_in(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace qdiff

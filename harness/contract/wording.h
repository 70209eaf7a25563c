// Several things in one text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace qdiff {

// "1 tensor", "2 tensors"
inline std::string counted(std::int64_t count, std::string_view what) {
  return std::to_string(count) + ' ' + std::string(what) + (count == 1 ? "" : "s");
}

// One text of each, by a function or a member.
template <typename Items, typename ToText>
std::vector<std::string> texts_of(const Items& items, const ToText& to_text) {
  std::vector<std::string> texts;
  for (const auto& item : items) texts.emplace_back(std::invoke(to_text, item));
  return texts;
}

// "a, b, c": what `to_text` says of each, with `separator` between them.
template <typename Items, typename ToText>
std::string joined(const Items& items, std::string_view separator, const ToText& to_text) {
  std::string text;
  bool first = true;
  for (const auto& item : items) {
    if (!first) text += separator;
    first = false;
    text += std::invoke(to_text, item);
  }
  return text;
}

// The same of texts, or of whole numbers.
template <typename Items>
std::string joined(const Items& items, std::string_view separator) {
  return joined(items, separator, [](const auto& item) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(item)>>) {
      return std::to_string(item);
    } else {
      return std::string_view(item);
    }
  });
}

// "a, b and c"
inline std::string listed(const std::vector<std::string>& texts, std::string_view before_last) {
  std::string text;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (i > 0) text += i + 1 == texts.size() ? ' ' + std::string(before_last) + ' ' : ", ";
    text += texts[i];
  }
  return text;
}

}  // namespace qdiff

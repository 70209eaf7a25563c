// Values as JSON and back, exactly: the same value has the same text, and a text gives the value back to the last bit.
// A struct is listed once, for both ways: QDIFF_ARCHIVED names its members, or fields(io, value) those that have
// another name in the file. It is for files that this version of the program wrote for itself; what people and other
// programs read are the reports.
#pragma once

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <ranges>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "harness/contract/error.h"

namespace qdiff::shards {

using Json = nlohmann::json;

// A form that does not fit; whoever reads a file says which.
class ArchiveError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// How many enumerators an enumeration has. Those with a name() are written by it.
template <typename Enum>
inline constexpr int kNumEnumerators = 0;
// Structs of which there are very many are lists of their members, without names.
template <typename T>
inline constexpr bool kIsRow = false;

template <typename T>
Json encode(const T& value);
template <typename T>
void decode(const Json& json, T& value);

// Types that have a text of their own; the room that knows them specialises this, with write() and read().
template <typename T>
struct TextForm {};

// What fields() is given.
class ArchiveOut {
 public:
  explicit ArchiveOut(bool row) : row_(row), json_(row ? Json::array() : Json::object()) {}
  template <typename T>
  void operator()(const char* name, const T& value) {
    if (row_)
      json_.push_back(encode(value));
    else
      json_[name] = encode(value);
  }
  Json take() { return std::move(json_); }

 private:
  bool row_;
  Json json_;
};

class ArchiveIn {
 public:
  explicit ArchiveIn(const Json& json, bool row) : json_(json), row_(row) {}
  template <typename T>
  void operator()(const char* name, T& value) {
    decode(row_ ? json_.at(next_) : json_.at(name), value);
    ++next_;
  }
  std::size_t read() const { return next_; }

 private:
  const Json& json_;
  bool row_;
  std::size_t next_ = 0;
};

#define QDIFF_ARCHIVED_MEMBER(member) io(#member, value.member);
#define QDIFF_ARCHIVED(Struct, ...)                                               \
  template <typename Io>                                                          \
  void fields(Io& io, Struct& value) {                                            \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(QDIFF_ARCHIVED_MEMBER, __VA_ARGS__)) \
  }

namespace archive_detail {

// A number or a text, which may read "NaN" too: it stands in a list.
using NumberOrText = std::variant<double, std::string>;

inline Json encode_double(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

inline double decode_double(const Json& json) {
  if (json.is_number()) return json.get<double>();
  const auto& text = json.get_ref<const std::string&>();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  throw ArchiveError("\"" + text + "\" is no number");
}

template <typename Enum>
Enum decode_enum(const Json& json) {
  for (int i = 0; i < kNumEnumerators<Enum>; ++i) {
    const auto value = static_cast<Enum>(i);
    if constexpr (requires { name(value); }) {
      if (json == name(value)) return value;
    } else {
      if (json == i) return value;
    }
  }
  throw ArchiveError(json.dump() + " is no value that this version knows");
}

}  // namespace archive_detail

template <typename T>
Json encode(const T& value) {
  using namespace archive_detail;
  if constexpr (requires { TextForm<T>::write(value); }) {
    return TextForm<T>::write(value);
  } else if constexpr (std::is_same_v<T, bool> || std::is_integral_v<T> || std::is_same_v<T, std::string>) {
    return value;
  } else if constexpr (std::is_floating_point_v<T>) {
    return encode_double(value);
  } else if constexpr (std::is_enum_v<T>) {
    static_assert(kNumEnumerators<T> > 0, "say how many enumerators there are");
    if constexpr (requires { name(value); })
      return name(value);
    else
      return static_cast<int>(value);
  } else if constexpr (requires { value.has_value(); }) {
    return value ? encode(*value) : Json(nullptr);
  } else if constexpr (std::ranges::range<T>) {  // of a map, pairs
    Json json = Json::array();
    for (const auto& item : value) json.push_back(encode(item));
    return json;
  } else if constexpr (requires { typename T::first_type; }) {
    return Json::array({encode(value.first), encode(value.second)});
  } else if constexpr (std::is_same_v<T, NumberOrText>) {
    const double* number = std::get_if<double>(&value);
    return number != nullptr ? encode_double(*number) : Json::array({std::get<std::string>(value)});
  } else {
    ArchiveOut out(kIsRow<T>);
    fields(out, const_cast<T&>(value));  // it is only read
    return out.take();
  }
}

template <typename T>
void decode(const Json& json, T& value) {
  using namespace archive_detail;
  if constexpr (requires { TextForm<T>::write(value); }) {
    value = TextForm<T>::read(json.get_ref<const std::string&>());
  } else if constexpr (std::is_same_v<T, bool> || std::is_same_v<T, std::string>) {
    value = json.get<T>();
  } else if constexpr (std::is_integral_v<T>) {
    if (!json.is_number_integer()) throw ArchiveError(json.dump() + " is no whole number");
    value = json.get<T>();
  } else if constexpr (std::is_floating_point_v<T>) {
    value = decode_double(json);
  } else if constexpr (std::is_enum_v<T>) {
    value = decode_enum<T>(json);
  } else if constexpr (requires { value.has_value(); }) {
    value.reset();
    if (!json.is_null()) decode(json, value.emplace());
  } else if constexpr (requires { value.emplace_back(); }) {
    value.clear();
    for (const Json& item : json.get_ref<const Json::array_t&>()) decode(item, value.emplace_back());
  } else if constexpr (requires { typename T::mapped_type; }) {
    value.clear();
    for (const Json& item : json.get_ref<const Json::array_t&>()) {
      typename T::key_type key{};
      decode(item.at(0), key);
      decode(item.at(1), value[std::move(key)]);
    }
  } else if constexpr (requires { typename T::key_type; }) {
    value.clear();
    for (const Json& item : json.get_ref<const Json::array_t&>()) {
      typename T::key_type key{};
      decode(item, key);
      value.insert(std::move(key));
    }
  } else if constexpr (std::ranges::range<T>) {  // an array
    if (json.size() != value.size()) throw ArchiveError("a list has another length than it should");
    for (std::size_t i = 0; i < value.size(); ++i) decode(json.at(i), value[i]);
  } else if constexpr (requires { typename T::first_type; }) {
    decode(json.at(0), value.first);
    decode(json.at(1), value.second);
  } else if constexpr (std::is_same_v<T, NumberOrText>) {
    if (json.is_array())
      value = json.at(0).get<std::string>();
    else
      value = decode_double(json);
  } else {
    ArchiveIn in(json, kIsRow<T>);
    fields(in, value);
    if (in.read() != json.size()) throw ArchiveError("it has members that this version does not know");
  }
}

// One line. Bytes of a text that are no UTF-8 become U+FFFD, as in every report.
template <typename T>
std::string encode_text(const T& value) {
  return encode(value).dump(-1, ' ', true, Json::error_handler_t::replace);
}

// Throws InputError where it is no such text, naming `source`.
template <typename T>
void decode_text(std::string_view text, T& value, const std::string& source) {
  try {
    decode(Json::parse(text), value);
  } catch (const Json::exception& error) {
    throw InputError(source + ": is of another form than this version writes: " + error.what());
  } catch (const ArchiveError& error) {
    throw InputError(source + ": is of another form than this version writes: " + error.what());
  }
}

}  // namespace qdiff::shards

// Typed members of JSON objects: the second half of strict_json.h.
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

[[noreturn]] void wrong(const std::string& where, const std::string& what, const Json& value, const std::string& rule) {
  throw InputError(where + ": " + what + " is " + show(value) + ", but must be " + rule);
}

std::string number_text(double value) {
  for (int significant = 9; significant < 17; ++significant) {  // as short as may be, so that it gives the number back
    const std::string text = digits(value, significant);
    if (std::strtod(text.c_str(), nullptr) == value) return text;
  }
  return digits(value, 17);
}

std::string int_rule(std::int64_t min, std::int64_t max) {
  return "a whole number from " + std::to_string(min) + " to " + std::to_string(max);
}

std::string number_rule(double min, double max) {
  return "a number from " + number_text(min) + " to " + number_text(max);
}

const Json* find(const Json& object, std::string_view key, const std::string& where) {
  if (!object.is_object()) throw InputError(where + ": is " + show(object) + ", but must be an object");
  const auto found = object.find(std::string(key));
  return found == object.end() ? nullptr : &*found;
}

const Json& require(const Json& object, std::string_view key, const std::string& rule, const std::string& where) {
  const Json* value = find(object, key, where);
  if (value == nullptr) throw InputError(where + ": " + in_quotes(key) + " is missing; it must be " + rule);
  return *value;
}

double as_number(const Json& value, const std::string& what, double min, double max, const std::string& where) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  if (!(number >= min && number <= max)) wrong(where, what, value, number_rule(min, max));
  return number;
}

}  // namespace

std::string show(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_number_float()) return number_text(value.get<double>());
  return printable(value.dump(-1, ' ', false, Json::error_handler_t::replace), 80);
}

std::int64_t as_int(const Json& value, const std::string& what, std::int64_t min, std::int64_t max,
                    const std::string& where) {
  const bool too_large = value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX;
  if (!value.is_number_integer() || too_large) wrong(where, what, value, int_rule(min, max));
  const auto number = value.get<std::int64_t>();
  if (number < min || number > max) wrong(where, what, value, int_rule(min, max));
  return number;
}

std::int64_t require_int(const Json& object, std::string_view key, std::int64_t min, std::int64_t max,
                         const std::string& where) {
  return as_int(require(object, key, int_rule(min, max), where), in_quotes(key), min, max, where);
}

double require_number(const Json& object, std::string_view key, double min, double max, const std::string& where) {
  return as_number(require(object, key, number_rule(min, max), where), in_quotes(key), min, max, where);
}

bool require_bool(const Json& object, std::string_view key, const std::string& where) {
  const Json& value = require(object, key, "true or false", where);
  if (!value.is_boolean()) wrong(where, in_quotes(key), value, "true or false");
  return value.get<bool>();
}

std::string require_string(const Json& object, std::string_view key, const std::string& where) {
  const Json& value = require(object, key, "a string", where);
  if (!value.is_string()) wrong(where, in_quotes(key), value, "a string");
  return value.get<std::string>();
}

const Json& require_array(const Json& object, std::string_view key, const std::string& where) {
  const Json& value = require(object, key, "an array", where);
  if (!value.is_array()) wrong(where, in_quotes(key), value, "an array");
  return value;
}

const Json& require_object(const Json& object, std::string_view key, const std::string& where) {
  const Json& value = require(object, key, "an object", where);
  if (!value.is_object()) wrong(where, in_quotes(key), value, "an object");
  return value;
}

std::optional<std::int64_t> optional_int(const Json& object, std::string_view key, std::int64_t min, std::int64_t max,
                                         const std::string& where) {
  if (find(object, key, where) == nullptr) return std::nullopt;
  return require_int(object, key, min, max, where);
}

std::optional<double> optional_number(const Json& object, std::string_view key, double min, double max,
                                      const std::string& where) {
  if (find(object, key, where) == nullptr) return std::nullopt;
  return require_number(object, key, min, max, where);
}

std::optional<bool> optional_bool(const Json& object, std::string_view key, const std::string& where) {
  if (find(object, key, where) == nullptr) return std::nullopt;
  return require_bool(object, key, where);
}

std::optional<std::string> optional_string(const Json& object, std::string_view key, const std::string& where) {
  if (find(object, key, where) == nullptr) return std::nullopt;
  return require_string(object, key, where);
}

void require_format(const Json& document, std::string_view format, std::int64_t version, std::string_view remedy,
                    const std::string& where) {
  const std::string members =
      in_quotes("format") + ": " + in_quotes(format) + ", " + in_quotes("version") + ": " + std::to_string(version);
  const auto refuse = [&](const std::string& what, const std::string& of_a_person) {
    throw InputError(where + ": " + what + "; " + (remedy.empty() ? of_a_person : std::string(remedy)));
  };
  if (!document.is_object()) {
    refuse("is " + show(document) + ", but must be an object", "begin the file with {" + members);
  }
  for (const auto& [key, value] : {std::pair<std::string, Json>{"format", format}, {"version", version}}) {
    const Json* found = find(document, key, where);
    if (found == nullptr) {
      refuse(in_quotes(key) + " is missing; it must be " + value.dump(), "begin the file with {" + members);
    }
    if (*found == value) continue;
    refuse(in_quotes(key) + " is " + show(*found) + ", but must be " + value.dump(),
           key == "format" ? "name a file of that kind" : "this qdiff reads no other");
  }
}

void refuse_unknown_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& where) {
  if (!object.is_object()) throw InputError(where + ": is " + show(object) + ", but must be an object");
  const std::vector<std::string> names(known.begin(), known.end());
  for (const auto& [key, value] : object.items()) {
    bool is_known = false;
    for (const std::string& name : names) is_known = is_known || name == key;
    if (!is_known) {
      std::string hint = suggestion(key, names);
      if (hint.empty()) {
        for (const std::string& name : names) hint += (hint.empty() ? "; the keys are " : ", ") + name;
      }
      throw InputError(where + ": there is no key \"" + printable(key) + "\"" + hint);
    }
  }
}

}  // namespace qdiff::formats

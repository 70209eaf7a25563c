// JSON from files that come from anywhere: RFC 8259 and nothing beyond it, within limits.
//
// Refused, each with one line "SOURCE: byte N: what is wrong": a byte order mark, NUL bytes and \u0000, text that is
// not UTF-8, lone surrogates, comments, trailing commas, text after the value, NaN and Infinity, numbers beyond
// float64, keys that occur twice in one object (compared decoded, so "\u0061" is "a"), and whatever exceeds the limits.
// N counts from 0 and is where the reader stood when it noticed: at or just behind the offending token.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "harness/formats/limits.h"

namespace qdiff::formats {

using Json = nlohmann::json;

// Receives the parts of a document in order; keys are known to be unique and limits to hold. To refuse something, an
// implementation calls refuse_json().
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void on_null() = 0;
  virtual void on_boolean(bool value) = 0;
  virtual void on_integer(std::int64_t value) = 0;  // negative ones
  virtual void on_unsigned(std::uint64_t value) = 0;
  virtual void on_float(double value) = 0;
  virtual void on_string(std::string& value) = 0;  // may be moved from
  virtual void on_key(std::string& value) = 0;     // may be moved from
  virtual void on_start_object() = 0;
  virtual void on_end_object() = 0;
  virtual void on_start_array() = 0;
  virtual void on_end_array() = 0;
};

// For use inside an implementation of JsonEvents: the parser adds source and offset.
[[noreturn]] void refuse_json(const std::string& what);

// All of these throw qdiff::InputError.
void parse_json_events(std::string_view text, const std::string& source, const JsonLimits& limits, JsonEvents& events);
Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits = kDocumentLimits);
Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = kDocumentLimits);

// ---- Typed members -------------------------------------------------------------------------------------------------
// `where` names the object for messages: `cases/H05.json` or `cases/H05.json: steps[2]`. A message reads
//   WHERE: "seed" is 1.5, but must be a whole number from 0 to 100
//   WHERE: "seed" is missing; it must be a whole number from 0 to 100
// Whole numbers are JSON integers: 3.0 and "3" are refused. The optional_ forms give nothing where the key is absent;
// null is a value, and a wrong one. All throw qdiff::InputError.

std::int64_t require_int(const Json& object, std::string_view key, std::int64_t min, std::int64_t max,
                         const std::string& where);
double require_number(const Json& object, std::string_view key, double min, double max, const std::string& where);
bool require_bool(const Json& object, std::string_view key, const std::string& where);
std::string require_string(const Json& object, std::string_view key, const std::string& where);
const Json& require_array(const Json& object, std::string_view key, const std::string& where);
const Json& require_object(const Json& object, std::string_view key, const std::string& where);

std::optional<std::int64_t> optional_int(const Json& object, std::string_view key, std::int64_t min, std::int64_t max,
                                         const std::string& where);
std::optional<double> optional_number(const Json& object, std::string_view key, double min, double max,
                                      const std::string& where);
std::optional<bool> optional_bool(const Json& object, std::string_view key, const std::string& where);
std::optional<std::string> optional_string(const Json& object, std::string_view key, const std::string& where);

// The same for a value that is no member, such as an array's element; `what` names it: "tokens[0][3]".
std::int64_t as_int(const Json& value, const std::string& what, std::int64_t min, std::int64_t max,
                    const std::string& where);

// Throws unless the document is an object with "format": FORMAT and "version": VERSION. `remedy` says what to do about
// it; where it is empty a person wrote the file, and is told how it begins.
void require_format(const Json& document, std::string_view format, std::int64_t version, std::string_view remedy,
                    const std::string& where);

// Throws for the first key that is not listed, with the nearest that is.
void refuse_unknown_keys(const Json& object, std::initializer_list<std::string_view> known, const std::string& where);

// A value as a message shows it: short, on one line, printable.
std::string show(const Json& value);

}  // namespace qdiff::formats

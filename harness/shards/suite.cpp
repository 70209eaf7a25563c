#include "harness/shards/suite.h"

#include <algorithm>
#include <set>

#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/formats/input_file.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::shards {
namespace {

using formats::Json;

// A hundred thousand cases by name.
constexpr formats::JsonLimits kSuiteLimits = {std::size_t{32} << 20, 8, 1'000'000, std::size_t{64} << 10};
constexpr std::int64_t kMostLayers = 1'000'000;

// Letters, digits and signs that may stand in the name of a file on every system.
bool is_name(const std::string& text) {
  constexpr std::size_t kLongest = 64;
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  };
  return !text.empty() && text.size() <= kLongest && text.front() != '.' && text.front() != '-' &&
         std::ranges::all_of(text, fits);
}

// The texts of a list that is not empty and holds nothing twice; empty where the key is absent.
std::vector<std::string> texts(const Json& document, const char* key, const std::string& where) {
  std::vector<std::string> result;
  if (!document.contains(key)) return result;
  const Json& list = formats::require_array(document, key, where);
  std::set<std::string> seen;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string place = where + ": \"" + key + "\"[" + std::to_string(i) + ']';
    if (!list[i].is_string() || list[i].get<std::string>().empty()) {
      throw InputError(place + " is " + formats::show(list[i]) + ", but must be a text that is not empty");
    }
    result.push_back(list[i].get<std::string>());
    if (!seen.insert(result.back()).second) throw InputError(place + " is " + formats::show(list[i]) + " once more");
  }
  if (result.empty()) {
    throw InputError(where + ": \"" + key + "\" is empty; name at least one, or leave the field out");
  }
  return result;
}

std::vector<std::string> words(const Json& document, const char* key, const std::vector<std::string>& known,
                               const std::string& where) {
  std::vector<std::string> result = texts(document, key, where);
  for (const std::string& word : result) {
    if (std::ranges::find(known, word) != known.end()) continue;
    throw InputError(where + ": \"" + key + "\" has \"" + formats::printable(word) + "\", but must be of " +
                     joined(known, ", ") + formats::suggestion(word, known));
  }
  return result;
}

std::vector<SuiteModel> models_of(const Json& document, const std::string& source) {
  std::vector<SuiteModel> models;
  if (!document.contains("models")) return models;
  const Json& list = formats::require_array(document, "models", source);
  std::set<std::string> seen;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = source + ": models[" + std::to_string(i) + ']';
    if (!list[i].is_object()) throw InputError(where + " is " + formats::show(list[i]) + ", but must be an object");
    formats::refuse_unknown_keys(list[i], {"name", "path"}, where);
    SuiteModel model{formats::require_string(list[i], "name", where), formats::require_string(list[i], "path", where)};
    if (!is_name(model.name)) {
      throw InputError(where + ": \"name\" is " + formats::show(list[i]["name"]) +
                       ", but must be 1 to 64 letters, digits, '-', '_' and '.', the first a letter, digit or '_'");
    }
    if (model.path.empty()) throw InputError(where + ": \"path\" is empty");
    if (!seen.insert(model.name).second) throw InputError(where + ": a second model is called " + model.name);
    models.push_back(std::move(model));
  }
  if (models.empty()) throw InputError(source + ": \"models\" is empty; leave it out for each case's own");
  return models;
}

}  // namespace

Suite parse_suite(std::string_view text, const std::string& source) {
  const Json document = formats::parse_json(text, source, kSuiteLimits);
  formats::require_format(document, "qdiff-suite", 1, "", source);
  formats::refuse_unknown_keys(
      document, {"format", "version", "models", "dtypes", "backends", "modes", "cases", "layers_per_unit"}, source);
  Suite suite;
  suite.models = models_of(document, source);
  for (const std::string& word : words(document, "dtypes", {"float32", "bfloat16", "float16"}, source)) {
    suite.dtypes.push_back(*parse_dtype(word));
  }
  suite.backends = words(document, "backends", {"cpu", "cuda", "reference"}, source);
  suite.modes = words(document, "modes", {"lockstep", "free", "both"}, source);
  suite.cases = texts(document, "cases", source);
  suite.layers_per_unit = formats::optional_int(document, "layers_per_unit", 1, kMostLayers, source);
  if (suite.layers_per_unit && suite.modes != std::vector<std::string>{"lockstep"}) {
    throw InputError(source +
                     ": \"layers_per_unit\" needs \"modes\": [\"lockstep\"]: a free run goes through all layers");
  }
  return suite;
}

Suite read_suite(const std::filesystem::path& file) {
  return parse_suite(formats::read_text_file(file, kSuiteLimits.bytes), formats::printable(file.string()));
}

}  // namespace qdiff::shards

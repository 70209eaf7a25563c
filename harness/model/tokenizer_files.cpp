// Vocabularies from files: the keys of a GGUF file, and tokenizer.json.
#include <algorithm>

#include "harness/contract/error.h"
#include "harness/formats/input_file.h"
#include "harness/formats/limits.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"
#include "harness/model/tokenizer.h"

namespace qdiff::model {
namespace {

namespace fs = std::filesystem;
using formats::GgufKey;
using formats::GgufReader;
using formats::Json;
using formats::printable;

// enum llama_token_type of llama.cpp (include/llama.h).
constexpr std::int64_t kControlToken = 3, kUserDefinedToken = 4;

constexpr std::int64_t kLargestToken = std::int64_t{1} << 24;  // no vocabulary is so large

std::string text_key(const GgufReader& file, const char* name) {
  const GgufKey* key = file.header().find_key(name);
  if (key == nullptr) return {};
  const auto* text = std::get_if<std::string>(&key->value);
  if (text == nullptr) {
    throw InputError(file.name() + ": byte " + std::to_string(key->offset) + ": " + name + " is " +
                     formats::describe_value(*key) + ", but must be a string");
  }
  return *text;
}

// What a tokenizer.json does before BPE, where that is known.
class JsonReader {
 public:
  JsonReader(const Json& json, const std::string& where) : json_(json), where_(where) {}

  std::optional<Vocabulary> read() {
    const Json& model = formats::require_object(json_, "model", where_);
    const std::string in_model = where_ + ": model";
    // Files of older versions name no type where they hold merges.
    const auto type = formats::optional_string(model, "type", in_model);
    const bool byte_fallback = formats::optional_bool(model, "byte_fallback", in_model).value_or(false);
    if ((type && *type != "BPE") || byte_fallback || !model.contains("merges")) return std::nullopt;
    read_tokens(formats::require_object(model, "vocab", in_model), in_model);
    read_added();
    read_merges(formats::require_array(model, "merges", in_model), in_model);
    result_.ignore_merges = formats::optional_bool(model, "ignore_merges", in_model).value_or(false);
    read_normalizer();
    read_pre_tokenizer();
    return std::move(result_);
  }

 private:
  void set(std::int64_t number, std::string text, bool added) {
    const auto place = static_cast<std::size_t>(number);
    if (place >= result_.tokens.size()) result_.tokens.resize(place + 1);
    result_.tokens[place] = {std::move(text), added, true};
  }

  void read_tokens(const Json& vocab, const std::string& where) {
    // A number may leave others out, but not so many that the list is larger than the file.
    const std::int64_t largest = std::min(kLargestToken, 16 * static_cast<std::int64_t>(vocab.size()) + 65536);
    largest_ = largest;
    for (const auto& [text, number] : vocab.items()) {
      const std::int64_t value = formats::as_int(number, "vocab \"" + printable(text) + '"', 0, largest, where);
      if (static_cast<std::size_t>(value) < result_.tokens.size() &&
          result_.tokens[static_cast<std::size_t>(value)].known) {
        throw InputError(where + ": the number " + std::to_string(value) + " is that of two tokens");
      }
      set(value, text, false);
    }
  }

  void read_added() {
    if (!json_.contains("added_tokens") || json_["added_tokens"].is_null()) return;
    for (const Json& added : formats::require_array(json_, "added_tokens", where_)) {
      const std::string where = where_ + ": added_tokens";
      const std::string text = formats::require_string(added, "content", where);
      set(formats::require_int(added, "id", 0, largest_, where), text, true);
      for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
        if (!formats::optional_bool(added, flag, where).value_or(false)) continue;
        unknown_ = "the added token \"" + printable(text) + "\" is one with \"" + flag + "\"";
      }
    }
  }

  void read_merges(const Json& merges, const std::string& where) {
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const Json& merge = merges[i];
      const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
      const std::size_t space = text.find(' ');
      if (!pair && (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)) {
        throw InputError(where + ": merges[" + std::to_string(i) + "] is " + formats::show(merge) +
                         ", but must be two tokens: \"a b\" or [\"a\", \"b\"]");
      }
      if (pair) {
        result_.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        result_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
      }
    }
  }

  static std::string type_of(const Json& json) {
    return json.is_object() && json.contains("type") && json["type"].is_string() ? json["type"].get<std::string>()
                                                                                 : std::string();
  }

  void read_normalizer() {
    if (!json_.contains("normalizer") || json_["normalizer"].is_null()) return;
    const Json& normalizer = json_["normalizer"];
    const bool of_none = type_of(normalizer) == "Sequence" && normalizer.contains("normalizers") &&
                         normalizer["normalizers"] == Json::array();
    if (of_none) return;
    result_.normalizes_to_nfc = type_of(normalizer) == "NFC";
    if (!result_.normalizes_to_nfc) unknown_ = "its normalizer is none that qdiff knows";
  }

  // ByteLevel with its own regex; Digits before it; or Split by a known regex, and ByteLevel without one.
  void read_pre_tokenizer() {
    const Json whole = json_.contains("pre_tokenizer") ? json_["pre_tokenizer"] : Json();
    Json parts = Json::array({whole});
    if (type_of(whole) == "Sequence" && whole.contains("pretokenizers")) parts = whole["pretokenizers"];
    bool digits = false, known = parts.is_array() && !parts.empty();
    std::optional<PreTokenizer> found;
    for (std::size_t i = 0; known && i < parts.size(); ++i) {
      const Json& part = parts[i];
      const std::string type = type_of(part);
      const auto flag = [&](const char* name, bool otherwise) {
        return formats::optional_bool(part, name, where_ + ": pre_tokenizer").value_or(otherwise);
      };
      if (type == "Digits" && i == 0) {
        digits = flag("individual_digits", false);
        known = digits;
      } else if (type == "Split" && i == 0 && part.contains("pattern") && part["pattern"].is_object()) {
        found = pre_tokenizer_of_regex(
            formats::optional_string(part["pattern"], "Regex", where_ + ": pre_tokenizer").value_or(""));
        known = found && !flag("invert", false) && part.contains("behavior") && part["behavior"] == "Isolated";
      } else if (type == "ByteLevel" && i + 1 == parts.size()) {
        known = !flag("add_prefix_space", true) && flag("use_regex", true) == !found.has_value();
        if (!found) found = digits ? PreTokenizer::kSmolLm : PreTokenizer::kGpt2;
      } else {
        known = false;
      }
    }
    if (!known || !found) {
      unknown_ = "its pre-tokenizer is none that qdiff knows";
    }
    if (unknown_.empty()) {
      result_.pre_tokenizer = found;
    } else {
      result_.why_not = unknown_;
    }
  }

  const Json& json_;
  const std::string& where_;
  Vocabulary result_;
  std::string unknown_;
  std::int64_t largest_ = 0;
};

}  // namespace

std::optional<Vocabulary> vocabulary_of_gguf(const GgufReader& file) {
  const GgufKey* tokens = file.header().find_key("tokenizer.ggml.tokens");
  const GgufKey* merges = file.header().find_key("tokenizer.ggml.merges");
  if (text_key(file, "tokenizer.ggml.model") != "gpt2" || tokens == nullptr || merges == nullptr) return std::nullopt;
  Vocabulary vocabulary;
  for (std::string& text : file.strings(*tokens)) vocabulary.tokens.push_back({std::move(text), false, true});
  if (const GgufKey* types = file.header().find_key("tokenizer.ggml.token_type")) {
    const std::vector<std::int64_t> kinds = file.integers(*types);
    if (kinds.size() != vocabulary.tokens.size()) {
      throw InputError(file.name() + ": tokenizer.ggml.token_type has " + std::to_string(kinds.size()) +
                       " entries, but there are " + std::to_string(vocabulary.tokens.size()) + " tokens");
    }
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      vocabulary.tokens[i].added = kinds[i] == kControlToken || kinds[i] == kUserDefinedToken;
    }
  }
  for (const std::string& merge : file.strings(*merges)) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string::npos) {
      throw InputError(file.name() + ": tokenizer.ggml.merges holds \"" + printable(merge) +
                       "\", but must hold two tokens with a space between them");
    }
    vocabulary.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  const std::string pre = text_key(file, "tokenizer.ggml.pre");
  vocabulary.pre_tokenizer = pre_tokenizer_of_gguf(pre);
  vocabulary.ignore_merges = vocabulary.pre_tokenizer == PreTokenizer::kLlama3;  // as llama.cpp has it
  // No key says so; Qwen2's tokenizer.json does, and llama.cpp does not.
  vocabulary.normalizes_to_nfc = vocabulary.pre_tokenizer == PreTokenizer::kQwen2;
  if (!vocabulary.pre_tokenizer) vocabulary.why_not = "tokenizer.ggml.pre is \"" + printable(pre) + '"';
  return vocabulary;
}

std::optional<Vocabulary> parse_tokenizer_json(std::string_view text, const std::string& source) {
  const Json json = formats::parse_json(text, source, formats::kTokenizerLimits);
  return JsonReader(json, source).read();
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& spec) {
  const fs::path path(spec);
  std::error_code ignored;
  std::optional<Vocabulary> vocabulary;
  if (fs::is_directory(path, ignored)) {
    const fs::path file = path / "tokenizer.json";
    if (!formats::path_exists(file)) return nullptr;
    vocabulary = parse_tokenizer_json(formats::read_text_file(file, formats::kTokenizerLimits.bytes),
                                      printable(file.string(), 400));
  } else if (spec.ends_with(".gguf")) {
    vocabulary = vocabulary_of_gguf(GgufReader(path));
  }
  if (!vocabulary) return nullptr;
  return std::make_unique<Tokenizer>(std::move(*vocabulary), printable(spec, 400));
}

}  // namespace qdiff::model

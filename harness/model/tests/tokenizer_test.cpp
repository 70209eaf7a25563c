#include "harness/model/tokenizer.h"

#include <chrono>
#include <functional>
#include <map>

#include "cmake/catch2.h"
#include "harness/formats/input_file.h"
#include "harness/formats/limits.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/tests/gguf_builder.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff;
using namespace qdiff::model;
using namespace qdiff::testing;
using formats::GgufType;
using formats::Json;

namespace {

// Written by scripts/make_tokenizer_goldens.py with the package tokenizers.
const std::filesystem::path kTokenizers = QDIFF_SOURCE_DIR "/harness/model/tests/data/tokenizer";

Json golden_tokenizer() { return formats::read_json_file(kTokenizers / "tokenizer.json", formats::kTokenizerLimits); }

std::optional<Vocabulary> vocabulary_of(const Json& json) {
  return parse_tokenizer_json(json.dump(), "tokenizer.json");
}
std::string tokenizer_error_of(const Json& json) {
  return input_error_of([&] {
    if (auto vocabulary = vocabulary_of(json)) Tokenizer(std::move(*vocabulary), "tokenizer.json");
  });
}
Tokenizer tokenizer_of(const Json& json) { return Tokenizer(vocabulary_of(json).value(), "tokenizer.json"); }

std::vector<std::string> words(std::string_view text, PreTokenizer rule) {
  std::vector<std::string> words;
  for (std::string_view word : split_into_words(text, rule)) words.emplace_back(word);
  return words;
}
using Words = std::vector<std::string>;

// The same vocabulary as a GGUF file has it.
std::string gguf_of(const Json& json, const std::string& pre) {
  const Vocabulary vocabulary = vocabulary_of(json).value();
  std::vector<std::string> tokens, merges;
  std::string types = u32(5) + u64(vocabulary.tokens.size());
  for (const Vocabulary::Token& token : vocabulary.tokens) {
    tokens.push_back(token.text);
    types += u32(token.added ? 3 : 1);
  }
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(left + ' ' + right);
  GgufBuilder builder;
  builder.key("tokenizer.ggml.model", "gpt2").key("tokenizer.ggml.pre", pre).key("tokenizer.ggml.tokens", tokens);
  builder.key("tokenizer.ggml.merges", merges).key("tokenizer.ggml.token_type", GgufType::kArray, types);
  return builder.file();
}

}  // namespace

TEST_CASE(
    "texts get the tokens that the package tokenizers gives, with every pre-tokenizer, and decode to themselves") {
  Json json = golden_tokenizer();
  const Json expected = formats::read_json_file(kTokenizers / "expected.json");
  const Json& texts = expected["texts"];
  CHECK(texts.size() > 60);
  const std::map<std::string, std::string> names_in_gguf = {
      {"gpt2", "gpt-2"}, {"smollm", "smollm"}, {"qwen2", "qwen2"}, {"llama3", "llama-bpe"}};
  CHECK(expected["pre_tokenizers"].size() == names_in_gguf.size());
  for (const auto& [name, golden] : expected["pre_tokenizers"].items()) {
    json["pre_tokenizer"] = golden["part"];
    const Tokenizer from_json = tokenizer_of(json);
    const TemporaryDirectory directory;
    const auto file = directory.write("m.gguf", gguf_of(json, names_in_gguf.at(name)));
    const auto from_gguf = open_tokenizer(file.string());
    REQUIRE(from_gguf != nullptr);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto text = texts[i].get<std::string>();
      INFO(name << ": " << texts[i].dump());
      const auto tokens = golden["tokens"][i].get<std::vector<std::int32_t>>();
      CHECK(from_json.encode(text) == tokens);
      CHECK(from_json.decode(tokens) == text);
      if (name == "llama3") continue;  // llama.cpp ignores merges there, which this tokenizer.json does not say
      CHECK(from_gguf->encode(text) == tokens);
    }
  }
}

TEST_CASE("words of each pre-tokenizer") {
  CHECK(words("it's 12  a", PreTokenizer::kGpt2) == Words{"it", "'s", " 12", " ", " a"});
  CHECK(words("IT'S 12!\n\n x", PreTokenizer::kGpt2) == Words{"IT", "'", "S", " 12", "!", "\n\n", " x"});
  CHECK(words("IT'S 12!\n\n x", PreTokenizer::kQwen2) == Words{"IT", "'S", " ", "1", "2", "!\n\n", " x"});
  CHECK(words("a  5 6", PreTokenizer::kSmolLm) == Words{"a", "  ", "5", " ", "6"});
  CHECK(words("1234", PreTokenizer::kLlama3) == Words{"123", "4"});
  CHECK(words(" \n \t\n  x", PreTokenizer::kQwen2) == Words{" \n \t\n", " ", " x"});
  CHECK(words("", PreTokenizer::kQwen2).empty());
  CHECK_THROWS_AS(split_into_words("\xFF", PreTokenizer::kQwen2), std::invalid_argument);
}

TEST_CASE("a word of many bytes is encoded in no time that grows with its square") {
  const Tokenizer tokenizer = tokenizer_of(golden_tokenizer());
  const auto start = std::chrono::steady_clock::now();
  const std::string text(1 << 20, 'a');
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(20));
}

TEST_CASE("numbers that are no tokens are shown as numbers") {
  const Tokenizer tokenizer = tokenizer_of(golden_tokenizer());
  CHECK(tokenizer.text_of(-1) == "(NaN)");
  CHECK(tokenizer.text_of(tokenizer.size()) == '<' + std::to_string(tokenizer.size()) + '>');
  CHECK(tokenizer.text_of(INT64_MAX) == "<9223372036854775807>");
}

TEST_CASE("texts that cannot be encoded as this tokenizer would are refused, not guessed") {
  Json json = golden_tokenizer();
  CHECK_THAT(input_error_of([&] { tokenizer_of(json).encode("\xC3("); }), ContainsSubstring("UTF-8"));
  CHECK_THAT(input_error_of([&] { tokenizer_of(json).encode("e\xCC\x81"); }), ContainsSubstring("NFC"));
  for (const Json& none : {Json(nullptr), Json{{"type", "Sequence"}, {"normalizers", Json::array()}}}) {
    json["normalizer"] = none;
    CHECK(tokenizer_of(json).decode(tokenizer_of(json).encode("e\xCC\x81")) == "e\xCC\x81");
  }

  const auto why = [&](const Json& changed) { return input_error_of([&] { tokenizer_of(changed).encode("a"); }); };
  Json other = json;
  other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+";
  CHECK_THAT(why(other), ContainsSubstring("its pre-tokenizer is none that qdiff knows"));
  other = json;
  other["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true;
  CHECK_THAT(why(other), ContainsSubstring("its pre-tokenizer is none that qdiff knows"));
  other = json;
  other["pre_tokenizer"] = {{"type", "Whitespace"}};
  CHECK_THAT(why(other), ContainsSubstring("its pre-tokenizer is none that qdiff knows"));
  other = json;
  other["normalizer"] = {{"type", "Lowercase"}};
  CHECK_THAT(why(other), ContainsSubstring("its normalizer is none that qdiff knows"));
  other = json;
  other["added_tokens"][0]["lstrip"] = true;
  CHECK_THAT(why(other), ContainsSubstring("is one with \"lstrip\""));
  CHECK(tokenizer_of(other).text_of(400) == "<|end|>");  // decoding asks for none of that
}

TEST_CASE("tokenizers of another kind are none of ours, and no error") {
  Json json = golden_tokenizer();
  json["model"]["type"] = "Unigram";
  CHECK_FALSE(vocabulary_of(json).has_value());
  json["model"]["type"] = "BPE";
  json["model"]["byte_fallback"] = true;
  CHECK_FALSE(vocabulary_of(json).has_value());
  const TemporaryDirectory directory;
  CHECK(open_tokenizer(directory.path().string()) == nullptr);
  CHECK(open_tokenizer("synthetic:toy-d64") == nullptr);
  CHECK(open_tokenizer(directory.write("m.gguf", GgufBuilder().file()).string()) == nullptr);
  GgufBuilder spm;
  spm.key("tokenizer.ggml.model", "llama").key("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  CHECK(open_tokenizer(directory.write("m.gguf", spm.file()).string()) == nullptr);
}

TEST_CASE("a broken tokenizer.json is refused with one line") {
  const auto changed = [](const std::function<void(Json&)>& change) {
    Json json = golden_tokenizer();
    change(json);
    const std::string message = tokenizer_error_of(json);
    CHECK(message.find('\n') == std::string::npos);
    return message;
  };
  CHECK_THAT(changed([](Json& j) { j = Json::array(); }), ContainsSubstring("must be an object"));
  CHECK_THAT(changed([](Json& j) { j.erase("model"); }), ContainsSubstring("\"model\" is missing"));
  CHECK_THAT(changed([](Json& j) { j["model"]["vocab"] = {{"a", -1}}; }), ContainsSubstring("whole number from 0"));
  CHECK_THAT(changed([](Json& j) { j["model"]["vocab"]["new"] = 1 << 20; }), ContainsSubstring("whole number from 0"));
  CHECK_THAT(changed([](Json& j) { j["model"]["vocab"]["new"] = 7; }), ContainsSubstring("is that of two tokens"));
  CHECK_THAT(changed([](Json& j) { j["model"]["merges"][3] = 5; }), ContainsSubstring("merges[3]"));
  CHECK_THAT(changed([](Json& j) { j["model"]["merges"][3] = "a b c"; }), ContainsSubstring("merges[3]"));
  CHECK_THAT(changed([](Json& j) { j["model"]["merges"][3] = {"a", "no such"}; }), ContainsSubstring("merge 3 joins"));
  CHECK_THAT(changed([](Json& j) { j["added_tokens"][0]["id"] = 1e9; }), ContainsSubstring("whole number from 0"));
  CHECK_THAT(changed([](Json& j) { j["added_tokens"][0].erase("content"); }), ContainsSubstring("\"content\""));
  CHECK_THAT(changed([](Json& j) { j["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = 1; }),
             ContainsSubstring("\"use_regex\" is 1"));
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", "{\"model\":");
  CHECK_THAT(input_error_of([&] { open_tokenizer(directory.path().string()); }), ContainsSubstring("tokenizer.json"));
}

TEST_CASE("an added token that is not UTF-8 cuts no text within a character") {
  GgufBuilder builder;
  builder.key("tokenizer.ggml.model", "gpt2").key("tokenizer.ggml.pre", "gpt-2");
  builder.key("tokenizer.ggml.tokens", std::vector<std::string>{"\xC3\x83", "\xC2\xA9", "\xA9"});  // C3, A9, added
  builder.key("tokenizer.ggml.merges", std::vector<std::string>{});
  builder.key("tokenizer.ggml.token_type", GgufType::kArray, u32(5) + u64(3) + u32(1) + u32(1) + u32(3));
  const TemporaryDirectory directory;
  const auto tokenizer = open_tokenizer(directory.write("m.gguf", builder.file()).string());
  REQUIRE(tokenizer != nullptr);
  CHECK(tokenizer->encode("\xC3\xA9") == std::vector<std::int32_t>{0, 1});
}

TEST_CASE("a broken vocabulary in GGUF keys is refused with one line") {
  const auto error = [](const GgufBuilder& builder) {
    const TemporaryDirectory directory;
    const auto path = directory.write("m.gguf", builder.file());
    return input_error_of([&] { open_tokenizer(path.string()); });
  };
  const std::vector<std::string> tokens = {"a", "b", "ab"};
  const auto with = [&](const std::vector<std::string>& merges) {
    GgufBuilder builder;
    builder.key("tokenizer.ggml.model", "gpt2").key("tokenizer.ggml.tokens", tokens);
    return builder.key("tokenizer.ggml.merges", merges);
  };
  CHECK(error(with({"a b"})).empty());
  CHECK_THAT(error(with({"ab"})), ContainsSubstring("with a space between"));
  CHECK_THAT(error(with({""})), ContainsSubstring("with a space between"));
  CHECK_THAT(error(with({"a c"})), ContainsSubstring("merge 0 joins"));
  GgufBuilder types = with({"a b"});
  types.key("tokenizer.ggml.token_type", GgufType::kArray, u32(5) + u64(1) + u32(1));
  CHECK_THAT(error(types), ContainsSubstring("token_type has 1 entries, but there are 3 tokens"));
  GgufBuilder numbers;
  numbers.key("tokenizer.ggml.model", 1U);
  CHECK_THAT(error(numbers), ContainsSubstring("must be a string"));
  GgufBuilder strings;
  strings.key("tokenizer.ggml.model", "gpt2").key("tokenizer.ggml.tokens", 1U).key("tokenizer.ggml.merges", tokens);
  CHECK_THAT(error(strings), ContainsSubstring("must be an array of strings"));
}

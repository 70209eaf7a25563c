// A model's own vocabulary: byte-level BPE, as GPT-2 introduced it and Qwen2.5, Llama 3 and SmolLM use it.
//
// Each byte is a printable character (bytes_to_unicode() of openai/gpt-2, src/encoder.py), and a token is a string of
// those. Added tokens, as <|im_start|>, stand for their own text. Encoding cuts a text at added tokens, the rest into
// words (pretokenizer.h), and joins the characters of each word by the merges, the one of lowest rank first.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/formats/gguf.h"
#include "harness/model/pretokenizer.h"

namespace qdiff::model {

// What a file says of its vocabulary.
struct Vocabulary {
  struct Token {
    std::string text;    // in the characters of byte-level BPE, or as it is for added tokens
    bool added = false;  // found in a text before it is cut into words
    bool known = false;  // false: a number that the vocabulary leaves out
  };
  std::vector<Token> tokens;                                // by number
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool ignore_merges = false;                               // a word that is a token is one, whatever the merges say
  bool normalizes_to_nfc = false;
  std::optional<PreTokenizer> pre_tokenizer;  // nothing: one that is not known, so that texts cannot be encoded
  std::string why_not;                        // what is not known of it
};

class Tokenizer {
 public:
  // `source` names the file in messages. Throws qdiff::InputError where merges name what is no token.
  Tokenizer(Vocabulary vocabulary, const std::string& source);

  std::int64_t size() const { return static_cast<std::int64_t>(vocabulary_.tokens.size()); }
  // Whether it is an added token, as <|im_end|>, behind which a model writes nothing that anyone reads.
  bool is_added(std::int64_t token) const;
  // The bytes that a token stands for; a number that is no token is "<123>", and a negative one, which stands for
  // logits that are no numbers, "(NaN)".
  std::string text_of(std::int64_t token) const;
  std::string decode(std::span<const std::int32_t> tokens) const;
  // Throws qdiff::InputError where the text is not UTF-8, or the file asks for a step that Qwen2 tokenizers do not
  // have.
  std::vector<std::int32_t> encode(std::string_view text) const;

 private:
  struct Merge {
    std::size_t rank;
    std::int32_t token;
  };

  void encode_word(std::string_view word, std::vector<std::int32_t>& out) const;
  // The longest added token at that byte.
  std::optional<std::int32_t> added_at(std::string_view text, std::size_t at) const;

  std::string source_;
  Vocabulary vocabulary_;
  std::unordered_map<std::string, std::int32_t> number_of_;
  std::vector<std::int32_t> added_;
  std::vector<std::int32_t> byte_token_;               // of each byte; -1 where none is
  std::unordered_map<std::uint64_t, Merge> merge_of_;  // of two neighbours, the left one in the high half
};

// The vocabulary of `tokenizer.ggml.*`; nothing where the file has none, or one of another kind than byte-level BPE.
std::optional<Vocabulary> vocabulary_of_gguf(const formats::GgufReader& file);

// tokenizer.json of the package tokenizers. Throws qdiff::InputError, and nothing else, for any text; nothing where it
// is well-formed but of another kind.
std::optional<Vocabulary> parse_tokenizer_json(std::string_view text, const std::string& source);

// The tokenizer of what `--model` names: from the keys of a GGUF file, or tokenizer.json in the directory. Null where
// there is none or it is of another kind, as with synthetic models. Throws qdiff::InputError where it is broken.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& spec);

}  // namespace qdiff::model

// Cuts a text into the words that byte-level BPE then works on, as the regular expressions of published tokenizers do.
//
//   kGpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//            ByteLevel of the package tokenizers, with its use_regex
//   kSmolLm  each character of \p{N} by itself, then kGpt2 in each piece: Digits and ByteLevel of SmolLM and SmolLM2
//   kQwen2   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}
//            | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//            tokenizer.json of Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen
//   kLlama3  as kQwen2, but \p{N}{1,3}
//
// Letters and numbers are those that the package tokenizers 0.23 knows (scripts/make_unicode_classes.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace qdiff::model {

enum class PreTokenizer : std::uint8_t { kGpt2, kSmolLm, kQwen2, kLlama3 };

// The names that tokenizer.ggml.pre has for them in GGUF files (llama.cpp, src/llama-vocab.cpp); nothing for others.
std::optional<PreTokenizer> pre_tokenizer_of_gguf(std::string_view name);
// The regular expression of a Split, as it stands in tokenizer.json.
std::optional<PreTokenizer> pre_tokenizer_of_regex(std::string_view regex);

// Every byte of `text`, which must be well-formed UTF-8, in order. Throws std::invalid_argument where it is not.
std::vector<std::string_view> split_into_words(std::string_view text, PreTokenizer pre_tokenizer);

// Whether normalisation to NFC may change the text: it holds characters that compose with others or decompose.
bool nfc_may_change(std::string_view text);

}  // namespace qdiff::model

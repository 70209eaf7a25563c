#include "harness/model/pretokenizer.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "harness/formats/utf8.h"

namespace qdiff::model {
namespace {

struct Range {
  std::uint32_t first, last;
};
#include "harness/model/unicode_classes.inc"

constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

template <std::size_t kCount>
bool among(const Range (&ranges)[kCount], std::uint32_t c) {
  const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), c,
                                       [](std::uint32_t value, const Range& range) { return value < range.first; });
  return after != std::begin(ranges) && c <= std::prev(after)->last;
}

// White_Space of the Unicode Character Database (PropList.txt), which is what \s matches.
bool is_space(std::uint32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}
bool is_line_break(std::uint32_t c) { return c == '\r' || c == '\n'; }

enum class Class : std::uint8_t { kLetter, kNumber, kSpace, kOther };

Class class_of(std::uint32_t c) {
  if (among(kLetters, c)) return Class::kLetter;
  if (among(kNumbers, c)) return Class::kNumber;
  return is_space(c) ? Class::kSpace : Class::kOther;
}

struct Character {
  std::uint32_t code;
  Class kind;
  std::size_t at;  // byte of the text
};

std::vector<Character> decode(std::string_view text) {
  std::vector<Character> characters;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = formats::utf8_length_at(text, at);
    if (length == 0) throw std::invalid_argument("split_into_words: the text is not UTF-8");
    auto code = static_cast<std::uint32_t>(static_cast<unsigned char>(text[at]));
    if (length > 1) code &= 0x7FU >> length;
    for (std::size_t i = 1; i < length; ++i) {
      code = code << 6 | (static_cast<std::uint32_t>(static_cast<unsigned char>(text[at + i])) & 0x3FU);
    }
    characters.push_back({code, class_of(code), at});
    at += length;
  }
  return characters;
}

// The pieces of one text; [begin, end) are places in `all`. A match starts at `at`, and its length in characters is
// given back, 0 where there is none.
class Splitter {
 public:
  Splitter(const std::vector<Character>& all, std::size_t begin, std::size_t end, PreTokenizer rule)
      : all_(all), begin_(begin), end_(end), rule_(rule) {}

  // Calls f(first, last + 1) for each word.
  template <typename Function>
  void each_word(Function f) const {
    for (std::size_t at = begin_; at < end_;) {
      const std::size_t length = rule_ == PreTokenizer::kGpt2 ? gpt2_word(at) : qwen2_word(at);
      f(at, at + length);
      at += length;
    }
  }

 private:
  bool is(std::size_t at, Class kind) const { return at < end_ && all_[at].kind == kind; }
  std::uint32_t code(std::size_t at) const { return at < end_ ? all_[at].code : 0; }

  // How many characters of a class stand there, at most `most`.
  std::size_t run(std::size_t at, Class kind, std::size_t most = SIZE_MAX) const {
    std::size_t length = 0;
    while (length < most && is(at + length, kind)) ++length;
    return length;
  }

  // 's 't 're 've 'm 'll 'd
  std::size_t contraction(std::size_t at, bool any_case) const {
    if (code(at) != '\'') return 0;
    const auto letter = [&](std::size_t i) -> std::uint32_t {
      const std::uint32_t c = code(i);
      if (!any_case) return c;
      if (c == 0x17F) return 's';  // the long s, which is an s where case does not count
      return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    };
    const std::uint32_t first = letter(at + 1), second = letter(at + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    const bool two =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return two ? 3 : 0;
  }

  // \s+(?!\S)|\s+: all but the last of several, which belongs to the word behind it.
  std::size_t spaces(std::size_t at) const {
    const std::size_t length = run(at, Class::kSpace);
    return at + length < end_ && length > 1 ? length - 1 : length;
  }

  std::size_t gpt2_word(std::size_t at) const {
    if (const std::size_t length = contraction(at, false)) return length;
    const std::size_t space = code(at) == ' ' ? 1 : 0;
    for (Class kind : {Class::kLetter, Class::kNumber, Class::kOther}) {
      if (const std::size_t length = run(at + space, kind)) return space + length;
    }
    return spaces(at);
  }

  std::size_t qwen2_word(std::size_t at) const {
    if (const std::size_t length = contraction(at, true)) return length;
    const bool before = !is(at, Class::kLetter) && !is(at, Class::kNumber) && !is_line_break(code(at));
    if (const std::size_t letters = run(at + (before ? 1 : 0), Class::kLetter)) return letters + (before ? 1 : 0);
    if (const std::size_t numbers = run(at, Class::kNumber, rule_ == PreTokenizer::kLlama3 ? 3 : 1)) return numbers;
    const std::size_t space = code(at) == ' ' ? 1 : 0;
    if (const std::size_t others = run(at + space, Class::kOther)) {
      std::size_t end = at + space + others;
      while (is_line_break(code(end))) ++end;
      return end - at;
    }
    // \s*[\r\n]+ takes white space up to the last line break in it.
    const std::size_t white = run(at, Class::kSpace);
    for (std::size_t length = white; length > 0; --length) {
      if (is_line_break(code(at + length - 1))) return length;
    }
    return spaces(at);
  }

  const std::vector<Character>& all_;
  std::size_t begin_, end_;
  PreTokenizer rule_;
};

}  // namespace

std::optional<PreTokenizer> pre_tokenizer_of_gguf(std::string_view name) {
  if (name == "gpt-2") return PreTokenizer::kGpt2;
  if (name == "smollm") return PreTokenizer::kSmolLm;
  if (name == "qwen2" || name == "deepseek-r1-qwen") return PreTokenizer::kQwen2;
  if (name == "llama3" || name == "llama-v3" || name == "llama-bpe") return PreTokenizer::kLlama3;
  return std::nullopt;
}

std::optional<PreTokenizer> pre_tokenizer_of_regex(std::string_view regex) {
  if (regex == kQwen2Regex) return PreTokenizer::kQwen2;
  if (regex == kLlama3Regex) return PreTokenizer::kLlama3;
  return std::nullopt;
}

std::vector<std::string_view> split_into_words(std::string_view text, PreTokenizer pre_tokenizer) {
  const std::vector<Character> all = decode(text);
  const auto byte_of = [&](std::size_t place) { return place < all.size() ? all[place].at : text.size(); };
  std::vector<std::string_view> words;
  const auto split = [&](std::size_t begin, std::size_t end, PreTokenizer rule) {
    Splitter(all, begin, end, rule).each_word([&](std::size_t first, std::size_t last) {
      words.push_back(text.substr(byte_of(first), byte_of(last) - byte_of(first)));
    });
  };
  if (pre_tokenizer != PreTokenizer::kSmolLm) {
    split(0, all.size(), pre_tokenizer);
    return words;
  }
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= all.size(); ++i) {
    if (i < all.size() && all[i].kind != Class::kNumber) continue;
    split(begin, i, PreTokenizer::kGpt2);
    if (i < all.size()) split(i, i + 1, PreTokenizer::kGpt2);
    begin = i + 1;
  }
  return words;
}

bool nfc_may_change(std::string_view text) {
  const std::vector<Character> all = decode(text);
  return std::ranges::any_of(all, [](const Character& c) { return among(kChangedByNfc, c.code); });
}

}  // namespace qdiff::model

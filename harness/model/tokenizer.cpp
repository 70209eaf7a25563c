#include "harness/model/tokenizer.h"

#include <algorithm>
#include <array>
#include <queue>

#include "harness/contract/error.h"
#include "harness/formats/input_file.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"
#include "harness/formats/utf8.h"

namespace qdiff::model {
namespace {

using formats::printable;

// bytes_to_unicode(): printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on.
constexpr std::array<std::uint32_t, 256> kCharacterOfByte = [] {
  std::array<std::uint32_t, 256> characters{};
  std::uint32_t next = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = itself ? byte : next++;
  }
  return characters;
}();

std::string utf8(std::uint32_t c) {  // up to U+07FF
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

// The bytes that a token's characters stand for; a character that stands for none is left as it is.
std::string bytes_of_token(std::string_view token) {
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = std::max<std::size_t>(1, formats::utf8_length_at(token, at));
    const std::string_view character = token.substr(at, length);
    at += length;
    std::size_t byte = 0;
    while (byte < 256 && utf8(kCharacterOfByte[byte]) != character) ++byte;
    bytes += byte < 256 ? std::string(1, static_cast<char>(byte)) : std::string(character);
  }
  return bytes;
}

std::uint64_t both(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

Tokenizer::Tokenizer(Vocabulary vocabulary, const std::string& source)
    : source_(source), vocabulary_(std::move(vocabulary)) {
  for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) {
    const Vocabulary::Token& token = vocabulary_.tokens[i];
    if (!token.known) continue;
    // One that is not UTF-8, as a GGUF file may hold, would cut a text within a character.
    const bool well_formed = formats::find_invalid_utf8(token.text) == token.text.size();
    if (token.added && !token.text.empty() && well_formed) added_.push_back(static_cast<std::int32_t>(i));
    number_of_.try_emplace(token.text, static_cast<std::int32_t>(i));  // merges may give an added token too
  }
  const auto find = [&](const std::string& text) {
    const auto found = number_of_.find(text);
    return found == number_of_.end() ? -1 : found->second;
  };
  for (std::uint32_t character : kCharacterOfByte) byte_token_.push_back(find(utf8(character)));
  for (std::size_t rank = 0; rank < vocabulary_.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary_.merges[rank];
    const std::int32_t a = find(left), b = find(right), joined = find(left + right);
    if (a < 0 || b < 0 || joined < 0) {
      throw InputError(source_ + ": merge " + std::to_string(rank) + " joins \"" + printable(left) + "\" and \"" +
                       printable(right) + "\", but not all of these and what they give are tokens");
    }
    merge_of_.try_emplace(both(a, b), Merge{rank, joined});
  }
  vocabulary_.merges = {};
}

bool Tokenizer::is_added(std::int64_t token) const {
  return token >= 0 && token < size() && vocabulary_.tokens[static_cast<std::size_t>(token)].added;
}

std::string Tokenizer::text_of(std::int64_t token) const {
  if (token < 0) return "(NaN)";
  if (token >= size() || !vocabulary_.tokens[static_cast<std::size_t>(token)].known) {
    return '<' + std::to_string(token) + '>';
  }
  const Vocabulary::Token& known = vocabulary_.tokens[static_cast<std::size_t>(token)];
  return known.added ? known.text : bytes_of_token(known.text);
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (std::int32_t token : tokens) text += text_of(token);
  return text;
}

std::optional<std::int32_t> Tokenizer::added_at(std::string_view text, std::size_t at) const {
  std::optional<std::int32_t> longest;
  std::size_t length = 0;
  for (std::int32_t token : added_) {
    const std::string& added = vocabulary_.tokens[static_cast<std::size_t>(token)].text;
    if (added.size() <= length || text.compare(at, added.size(), added) != 0) continue;
    longest = token;
    length = added.size();
  }
  return longest;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (!vocabulary_.pre_tokenizer) {
    throw InputError(source_ + ": texts cannot be encoded: " + vocabulary_.why_not + "; give token numbers in a case");
  }
  if (formats::find_invalid_utf8(text) != text.size()) throw InputError("the text is not UTF-8; give it in UTF-8");
  if (vocabulary_.normalizes_to_nfc && nfc_may_change(text)) {
    throw InputError(
        "the text holds combining characters or others that normalisation to NFC may change, which this tokenizer does "
        "and qdiff does not; give token numbers in a case");
  }
  std::vector<std::int32_t> out;
  const auto encode_plain = [&](std::string_view part) {
    for (std::string_view word : split_into_words(part, *vocabulary_.pre_tokenizer)) encode_word(word, out);
  };
  std::size_t plain = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::optional<std::int32_t> added = added_at(text, at);
    if (!added) {
      ++at;
      continue;
    }
    encode_plain(text.substr(plain, at - plain));
    out.push_back(*added);
    at += vocabulary_.tokens[static_cast<std::size_t>(*added)].text.size();
    plain = at;
  }
  encode_plain(text.substr(plain));
  return out;
}

void Tokenizer::encode_word(std::string_view word, std::vector<std::int32_t>& out) const {
  struct Symbol {
    std::int32_t token;
    std::size_t before, after;  // neighbours; word.size() where there is none
    bool gone = false;
  };
  struct Candidate {
    std::size_t rank, left;
    std::int32_t left_token, right_token;           // as they were when this was noted
    bool operator<(const Candidate& other) const {  // the queue gives the largest: the lowest rank, then the leftmost
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const std::size_t none = word.size();
  std::vector<Symbol> symbols;
  std::string characters;
  for (std::size_t i = 0; i < word.size(); ++i) {
    const auto byte = static_cast<unsigned char>(word[i]);
    if (byte_token_[byte] < 0) {
      throw InputError(source_ + ": the vocabulary has no token for byte " + std::to_string(byte));
    }
    symbols.push_back({byte_token_[byte], i == 0 ? none : i - 1, i + 1});
    characters += utf8(kCharacterOfByte[byte]);
  }
  if (vocabulary_.ignore_merges) {
    const auto whole = number_of_.find(characters);
    if (whole != number_of_.end()) return out.push_back(whole->second);
  }
  std::priority_queue<Candidate> queue;
  const auto note = [&](std::size_t left) {
    if (left == none || symbols[left].after == none) return;
    const std::int32_t a = symbols[left].token, b = symbols[symbols[left].after].token;
    const auto merge = merge_of_.find(both(a, b));
    if (merge != merge_of_.end()) queue.push({merge->second.rank, left, a, b});
  };
  for (std::size_t i = 0; i < symbols.size(); ++i) note(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    if (left.gone || left.after == none || left.token != best.left_token) continue;
    Symbol& right = symbols[left.after];
    if (right.token != best.right_token) continue;
    left.token = merge_of_.at(both(left.token, right.token)).token;
    right.gone = true;
    left.after = right.after;
    if (right.after != none) symbols[right.after].before = best.left;
    note(left.before);
    note(best.left);
  }
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    if (!symbols[i].gone) out.push_back(symbols[i].token);
  }
}

}  // namespace qdiff::model

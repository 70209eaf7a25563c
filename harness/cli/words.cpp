#include "harness/cli/words.h"

#include "harness/formats/suggest.h"

namespace qdiff::cli {
namespace {

constexpr std::size_t kLongestText = 2000;

std::string on_one_line(const std::string& text) {
  std::string line;
  for (const char c : text) line += c == '\n' ? std::string("\\n") : std::string(1, c);
  return formats::printable(line, kLongestText);
}

}  // namespace

std::string words(const model::Tokenizer& tokenizer, const std::vector<std::int64_t>& tokens) {
  std::string text;
  for (const std::int64_t token : tokens) text += tokenizer.text_of(token);
  return on_one_line(text);
}

void put_words(const model::Tokenizer* tokenizer, std::vector<findings::FreeRun>& runs) {
  for (findings::FreeRun& run : runs) {
    if (tokenizer == nullptr || run.expected_tokens.empty()) continue;
    run.expected_text = words(*tokenizer, run.expected_tokens);
    run.actual_text = words(*tokenizer, run.actual_tokens);
    run.expected_word = words(*tokenizer, {run.expected_tokens.back()});
    run.actual_word = words(*tokenizer, {run.actual_tokens.back()});
  }
}

}  // namespace qdiff::cli

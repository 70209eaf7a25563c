// Values of command line options, read strictly: the whole text must be the value, and a value that could not mean
// anything (NaN, a negative dose, a range that runs backwards) is refused instead of passing everything later.
// All functions throw qdiff::InputError, naming the option, the text and what it must look like.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/mistake.h"
#include "harness/contract/wording.h"
#include "harness/findings/finding_kind.h"

namespace qdiff::cli {

// "0-3,7": kept as ranges, for a range may be written longer than any model or case is.
struct NumberRanges {
  struct Range {
    std::int64_t first;
    std::int64_t last;  // included
  };
  std::string text;  // as given
  std::vector<Range> ranges;

  std::int64_t largest() const;
  // The numbers that are smaller than `end`.
  std::set<int> below(std::int64_t end) const;
};

NumberRanges parse_ranges(const std::string& option, const std::string& text);

// Bytes: "4G", "512M", "1048576", "1.5GiB"; K, M, G and T are powers of 1024.
std::uint64_t parse_size(const std::string& option, const std::string& text);

// A whole number in [smallest, largest].
std::int64_t parse_whole(const std::string& option, const std::string& text, std::int64_t smallest,
                         std::int64_t largest);

// A finite number that is not negative: "0.01", "1e-3".
double parse_tolerance(const std::string& option, const std::string& text);

// Any text but none: a path, or a name of something built in.
std::string parse_path(const std::string& option, const std::string& text);

// "logic,precision" or "any": kinds of finding, each once.
std::vector<findings::FindingKind> parse_kinds(const std::string& option, const std::string& text);

// Throws InputError that lists the choices and names the nearest.
[[noreturn]] void refuse_choice(const std::string& option, const std::string& text,
                                const std::vector<std::string>& choices);

// A reader of one of these words.
template <typename Value>
class OneOf {
 public:
  explicit OneOf(std::vector<std::pair<std::string, Value>> choices) : choices_(std::move(choices)) {}

  Value operator()(const std::string& option, const std::string& text) const {
    for (const auto& [word, value] : choices_) {
      if (word == text) return value;
    }
    refuse_choice(option, text, words());
  }
  std::vector<std::string> words() const {
    return texts_of(choices_, [](const auto& choice) { return choice.first; });
  }
  // That of a value among them.
  const std::string& word(Value value) const {
    return std::ranges::find(choices_, value, &std::pair<std::string, Value>::second)->first;
  }

 private:
  std::vector<std::pair<std::string, Value>> choices_;
};

template <typename Value>
OneOf<Value> one_of(std::vector<std::pair<std::string, Value>> choices) {
  return OneOf<Value>(std::move(choices));
}

// "Hnn.name[=value][@layer]" or "X.name…", of a bug in the fault table.
Fault parse_fault(const std::string& option, const std::string& text);

// A fault, or a mistake as "MECHANISM[:name=value;...]@TENSOR[;name=value...]" (contract/mistake.h).
Injection parse_injection(const std::string& option, const std::string& text);

// What lies in layers that are left out shows nowhere: the run would end without an answer, hours later perhaps. Throws
// InputError.
void check_injection_is_among(const Injection& injection, const NumberRanges& layers);

// Throws InputError where `wanted` names a number that is not below `end`: "there is no step 7; there are steps 0 to
// 1".
void check_below(const std::string& option, const NumberRanges& wanted, std::int64_t end, const std::string& what);

}  // namespace qdiff::cli

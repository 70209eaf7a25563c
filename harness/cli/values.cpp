#include "harness/cli/values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/formats/mistake_text.h"
#include "harness/formats/suggest.h"

namespace qdiff::cli {
namespace {

constexpr std::int64_t kLargestIndex = std::numeric_limits<int>::max() - 1;

[[noreturn]] void refuse(const std::string& option, const std::string& text, const std::string& rule) {
  throw InputError(option + " '" + text + "': " + rule);
}

bool is_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

// Digits only: no sign, no space, nothing behind. Empty where they are not, or exceed `largest`.
std::optional<std::int64_t> whole(std::string_view text, std::int64_t largest) {
  const auto value = is_digits(text) ? number_in<std::int64_t>(text) : std::nullopt;
  return value && *value <= largest ? value : std::nullopt;
}

// A finite decimal number without sign; empty for anything else ("nan", "-1", "1e999", "0x10", "1 ").
std::optional<double> unsigned_number(std::string_view text) {
  if (text.empty() || !(text.front() == '.' || (text.front() >= '0' && text.front() <= '9'))) return std::nullopt;
  const auto value = number_in<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::string suggested_fault(const std::string& id) {
  std::vector<std::string> names;
  for (const VariantFacts& facts : fault_table()) {
    names.emplace_back(name(facts.id));
    // "modulo": the name is right, and its hypothesis is left out.
    if (!id.empty() && names.back().ends_with('.' + id)) return "; did you mean \"" + names.back() + "\"?";
  }
  return formats::suggestion(id, names);
}

}  // namespace

std::int64_t NumberRanges::largest() const {
  std::int64_t largest = 0;
  for (const Range& range : ranges) largest = std::max(largest, range.last);
  return largest;
}

std::set<int> NumberRanges::below(std::int64_t end) const {
  std::set<int> numbers;
  for (const Range& range : ranges) {
    for (std::int64_t n = range.first; n <= range.last && n < end; ++n) numbers.insert(static_cast<int>(n));
  }
  return numbers;
}

NumberRanges parse_ranges(const std::string& option, const std::string& text) {
  const std::string rule = "write numbers and ranges separated by commas, as 0-3 or 0,2,5-7";
  NumberRanges numbers{.text = text, .ranges = {}};
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const std::size_t dash = part.find('-');
    const auto first = whole(part.substr(0, dash), kLargestIndex);
    const auto last = dash == std::string_view::npos ? first : whole(part.substr(dash + 1), kLargestIndex);
    if (!first || !last) refuse(option, text, rule);
    if (*last < *first) refuse(option, text, "range " + std::string(part) + " runs backwards");
    numbers.ranges.push_back({*first, *last});
    if (comma == std::string_view::npos) return numbers;
    rest.remove_prefix(comma + 1);
  }
}

std::uint64_t parse_size(const std::string& option, const std::string& text) {
  const std::string rule = "write a size above zero, as 512M, 4G or 1.5GiB";
  const std::size_t unit_at = text.find_first_not_of("0123456789.");
  const auto number = unsigned_number(std::string_view(text).substr(0, unit_at));
  if (!number) refuse(option, text, rule);
  std::string unit = unit_at == std::string::npos ? "" : text.substr(unit_at);
  double factor = 1.0;
  if (!unit.empty() && unit != "B") {
    const std::size_t power = std::string_view("KMGT").find(unit.front());
    const std::string suffix = unit.substr(1);
    if (power == std::string_view::npos || !(suffix.empty() || suffix == "B" || suffix == "iB")) {
      refuse(option, text, rule);
    }
    factor = std::ldexp(1.0, 10 * (static_cast<int>(power) + 1));
  }
  const double bytes = *number * factor;
  if (!(bytes >= 1.0) || !(bytes < 0x1p62)) refuse(option, text, rule);
  return static_cast<std::uint64_t>(bytes);
}

std::int64_t parse_whole(const std::string& option, const std::string& text, std::int64_t smallest,
                         std::int64_t largest) {
  const auto value = whole(text, largest);
  if (!value || *value < smallest) {
    refuse(option, text, "must be a whole number from " + std::to_string(smallest) + " to " + std::to_string(largest));
  }
  return *value;
}

double parse_tolerance(const std::string& option, const std::string& text) {
  const auto value = unsigned_number(text);
  if (!value) refuse(option, text, "must be a finite number that is not negative, as 0.01 or 1e-3");
  return *value;
}

std::string parse_path(const std::string& option, const std::string& text) {
  if (text.empty()) throw InputError(option + " is empty; give a path or a name");
  return text;
}

std::vector<findings::FindingKind> parse_kinds(const std::string& option, const std::string& text) {
  std::vector<findings::FindingKind> kinds;
  const auto add = [&](findings::FindingKind kind) {
    if (std::ranges::find(kinds, kind) == kinds.end()) kinds.push_back(kind);
  };
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view word = rest.substr(0, comma);
    std::vector<std::string> known = {"any"};
    bool found = word == "any";
    for (std::size_t i = 0; i < findings::kFindingKindNames.size(); ++i) {
      const auto kind = static_cast<findings::FindingKind>(i);
      known.emplace_back(findings::name(kind));
      if (word != "any" && word != findings::name(kind)) continue;
      add(kind);
      found = true;
    }
    if (!found) refuse_choice(option, std::string(word), known);
    if (comma == std::string_view::npos) return kinds;
    rest.remove_prefix(comma + 1);
  }
}

void refuse_choice(const std::string& option, const std::string& text, const std::vector<std::string>& choices) {
  refuse(option, text, "must be " + listed(choices, "or") + formats::suggestion(text, choices));
}

Fault parse_fault(const std::string& option, const std::string& text) {
  const std::string rule = "write Hnn.name[=value][@layer], as H05.modulo or H03.theta=1e4@0";
  const std::size_t equals = text.find('=');
  const std::size_t at = text.find('@', equals == std::string::npos ? 0 : equals);
  const std::string id = text.substr(0, std::min(equals, at));
  const std::size_t dot = id.find('.');
  const std::string family = id.substr(0, dot);
  const bool is_hypothesis = family.size() == 3 && family[0] == 'H' && is_digits(family.substr(1));
  if (dot == std::string::npos || dot + 1 == id.size() || !(is_hypothesis || family == "X")) {
    refuse(option, text, rule + suggested_fault(id));
  }
  const std::optional<FaultId> known = parse_fault_id(id);
  if (!known) refuse(option, id, "there is no such fault; docs/faults.md lists them" + suggested_fault(id));
  Fault fault{.id = *known};
  if (equals != std::string::npos) {
    const std::string value = text.substr(equals + 1, at == std::string::npos ? at : at - equals - 1);
    const bool negative = value.starts_with('-');
    fault.value = unsigned_number(std::string_view(value).substr(negative ? 1 : 0));
    if (!fault.value) refuse(option, text, "its value must be a finite number; " + rule);
    if (negative) fault.value = -*fault.value;  // which values make sense is for the fault to say
  }
  if (at != std::string::npos) {
    const auto layer = whole(std::string_view(text).substr(at + 1), kLargestIndex);
    if (!layer) refuse(option, text, "its layer must be a whole number; " + rule);
    fault.layer = static_cast<int>(*layer);
  }
  return fault;
}

// Whether a text names a mechanism, or something that is nearer to one than to a known bug, whose names have capitals.
bool names_mechanism(const std::string& text) {
  const std::string word = text.substr(0, text.find_first_of(":@="));
  if (parse_mistake_kind(word)) return true;
  if (text.find(':') != std::string::npos) return true;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kNumMistakeKinds; ++i) names.emplace_back(facts(static_cast<MistakeKind>(i)).name);
  return !word.empty() && word.front() >= 'a' && word.front() <= 'z' && !formats::suggestion(word, names).empty();
}

Injection parse_injection(const std::string& option, const std::string& text) {
  if (!names_mechanism(text)) return parse_fault(option, text);
  try {
    return formats::parse_mistake(text);
  } catch (const InputError& error) {
    throw InputError(option + ' ' + error.what());
  }
}

void check_injection_is_among(const Injection& injection, const NumberRanges& layers) {
  std::vector<std::int64_t> needed;  // one of these has to be among the layers
  if (const auto* fault = std::get_if<Fault>(&injection)) {
    if (fault->layer && !fault_facts(fault->id).leaves_layer) needed.push_back(*fault->layer);
  } else {
    const Selection& selection = std::get<Mistake>(injection).scope.layers;
    if (selection.kind == Selection::Kind::kOnly) needed = selection.only;
    if (selection.kind == Selection::Kind::kFrom) needed.push_back(std::max(selection.bound, layers.largest()));
    if (selection.kind == Selection::Kind::kBelow) {
      for (std::int64_t layer = 0; layer < selection.bound; ++layer) needed.push_back(layer);
    }
  }
  const bool seen = std::ranges::any_of(
      needed, [&](std::int64_t layer) { return layers.below(layer + 1).contains(static_cast<int>(layer)); });
  if (needed.empty() || seen) return;
  throw InputError("--inject '" + to_string(injection) + "': layer " + std::to_string(needed.front()) +
                   " is not among those of --layers '" + layers.text +
                   "', so the fault could not be seen; take that layer in, or plant it in one of these");
}

void check_below(const std::string& option, const NumberRanges& wanted, std::int64_t end, const std::string& what) {
  if (wanted.largest() < end) return;
  throw InputError(option + " '" + wanted.text + "': there is no " + what + ' ' + std::to_string(wanted.largest()) +
                   "; there are " + what + "s 0 to " + std::to_string(end - 1));
}

}  // namespace qdiff::cli

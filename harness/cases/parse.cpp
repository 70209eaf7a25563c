#include <algorithm>
#include <string>

#include "harness/cases/case.h"
#include "harness/contract/error.h"
#include "harness/contract/hypothesis.h"
#include "harness/formats/strict_json.h"

namespace qdiff::cases {
namespace {

using formats::Json;

[[noreturn]] void refuse(const std::string& where, std::string_view key, const Json& value, const std::string& rule) {
  throw InputError(where + ": \"" + std::string(key) + "\" is " + formats::show(value) + ", but must be " + rule);
}

const Json& require(const Json& object, std::string_view key, const std::string& rule, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) {
    throw InputError(where + ": \"" + std::string(key) + "\" is missing; it must be " + rule);
  }
  return *found;
}

void require_exactly(const Json& object, std::string_view key, const Json& value, const std::string& where) {
  const Json& found = require(object, key, value.dump(), where);
  if (found != value) refuse(where, key, found, value.dump());
}

std::string require_text(const Json& object, std::string_view key, const std::string& where) {
  std::string text = formats::require_string(object, key, where);
  const auto characters =
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  const bool has_control = std::ranges::any_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20U || byte == 0x7FU;
  });
  if (text.empty() || static_cast<std::size_t>(characters) > kMaxTextLength || has_control) {
    refuse(where, key, object[std::string(key)],
           "text of 1 to " + std::to_string(kMaxTextLength) + " characters, none of them control characters");
  }
  return text;
}

std::vector<std::int64_t> integers(const Json& value, const std::string& what, std::int64_t largest,
                                   const std::string& where) {
  if (!value.is_array() || value.empty()) refuse(where, what, value, "a list of whole numbers, at least one");
  std::vector<std::int64_t> numbers;
  numbers.reserve(value.size());
  for (std::size_t i = 0; i < value.size(); ++i) {
    numbers.push_back(formats::as_int(value[i], what + '[' + std::to_string(i) + ']', 0, largest, where));
  }
  return numbers;
}

// [batch][T]; T is that of the first row unless it is given.
std::vector<std::vector<std::int64_t>> integer_rows(const Json& value, const std::string& what, std::int64_t batch,
                                                    std::int64_t num_tokens, const std::string& where) {
  if (!value.is_array() || static_cast<std::int64_t>(value.size()) != batch) {
    refuse(where, what, value, "a list of " + std::to_string(batch) + " rows, as many as \"batch\"");
  }
  std::vector<std::vector<std::int64_t>> rows;
  for (std::size_t b = 0; b < value.size(); ++b) {
    const std::string row = what + '[' + std::to_string(b) + ']';
    rows.push_back(integers(value[b], row, kMaxTokenId, where));
    if (num_tokens == 0) num_tokens = static_cast<std::int64_t>(rows.front().size());
    if (static_cast<std::int64_t>(rows.back().size()) != num_tokens) {
      refuse(where, row, value[b], "as long as the step, " + std::to_string(num_tokens) + " tokens");
    }
  }
  return rows;
}

void check_format(const Json& document, const std::string& source) {
  formats::require_format(document, "qdiff-case", 1, "", source);
  if (document.contains("logits")) require_exactly(document, "logits", "all", source);
}

std::string require_id(const Json& document, const std::string& source) {
  std::string id = require_text(document, "id", source);
  const auto is_letter_or_digit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool valid = id.size() <= 64 && is_letter_or_digit(id.front()) &&
                     std::ranges::all_of(id, [&](char c) { return is_letter_or_digit(c) || c == '-' || c == '_'; });
  if (!valid) refuse(source, "id", document["id"], "1 to 64 letters, digits, '-' and '_', the first no sign");
  return id;
}

std::optional<std::string> require_hypothesis(const Json& document, const std::string& source) {
  const std::string rule = "\"H01\" to \"H10\", or null";
  const Json& value = require(document, "hypothesis", rule, source);
  if (value.is_null()) return std::nullopt;
  for (const Hypothesis& hypothesis : kHypotheses) {
    if (value.is_string() && value.get<std::string>() == hypothesis.id) return std::string(hypothesis.id);
  }
  refuse(source, "hypothesis", value, rule);
}

std::string optional_model(const Json& document, const std::string& source) {
  if (!document.contains("model")) return "";
  std::string model = require_text(document, "model", source);
  if (!model.starts_with("synthetic:") || model == "synthetic:") {
    refuse(source, "model", document["model"],
           "\"synthetic:NAME[,seed=N][,profile=P]\"; other models are named on the command line");
  }
  return model;
}

std::vector<int> parse_layers(const Json& document, const std::string& source) {
  const auto found = document.find("layers");
  if (found == document.end()) return {};
  const std::vector<std::int64_t> numbers = integers(*found, "layers", kMaxLayers - 1, source);
  for (std::size_t i = 1; i < numbers.size(); ++i) {
    if (numbers[i] <= numbers[i - 1]) refuse(source, "layers", *found, "layer numbers in ascending order, each once");
  }
  return {numbers.begin(), numbers.end()};
}

CaseStep parse_step(const Json& document, std::int64_t batch, const std::string& where) {
  if (!document.is_object()) throw InputError(where + " is " + formats::show(document) + ", but must be an object");
  formats::refuse_unknown_keys(document, {"phase", "tokens", "positions"}, where);
  CaseStep step;
  const std::string phase = formats::require_string(document, "phase", where);
  if (phase == "decode") {
    step.phase = Phase::kDecode;
  } else if (phase != "prefill") {
    refuse(where, "phase", document["phase"], "\"prefill\" or \"decode\"");
  }
  const Json& tokens = require(document, "tokens", "how many tokens each row gets, or rows of token ids", where);
  if (tokens.is_array()) {
    for (const auto& row : integer_rows(tokens, "tokens", batch, 0, where)) {
      step.tokens.emplace_back(row.begin(), row.end());
    }
    step.num_tokens = static_cast<std::int64_t>(step.tokens.front().size());
  } else {
    step.num_tokens = formats::require_int(document, "tokens", 1, kMaxLength, where);
  }
  if (step.phase == Phase::kDecode && step.num_tokens != 1) {
    refuse(where, "tokens", tokens, "one token a row in a decode step; several at once are a \"prefill\" step");
  }
  if (document.contains("positions")) {
    step.positions = integer_rows(document["positions"], "positions", batch, step.num_tokens, where);
  }
  return step;
}

void parse_steps(const Json& document, const std::string& source, Case& result) {
  const Json& steps = formats::require_array(document, "steps", source);
  if (steps.empty() || static_cast<std::int64_t>(steps.size()) > kMaxSteps) {
    refuse(source, "steps", steps, "a list of 1 to " + std::to_string(kMaxSteps) + " steps");
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    result.steps.push_back(parse_step(steps[i], result.batch, source + ": steps[" + std::to_string(i) + ']'));
  }
  if (result.length() > kMaxLength || result.length() * result.batch > kMaxTokens) {
    throw InputError(source + ": the steps have " + std::to_string(result.length()) + " tokens a row in " +
                     std::to_string(result.batch) + " rows, but a case holds at most " + std::to_string(kMaxLength) +
                     " a row and " + std::to_string(kMaxTokens) + " in all; shorten the steps");
  }
}

void parse_padding(const Json& document, const std::string& source, Case& result) {
  result.left_padding.assign(static_cast<std::size_t>(result.batch), 0);
  const auto found = document.find("left_padding");
  if (found == document.end()) return;
  result.left_padding = integers(*found, "left_padding", kMaxLength - 1, source);
  if (static_cast<std::int64_t>(result.left_padding.size()) != result.batch) {
    refuse(source, "left_padding", *found, "one number for each of the " + std::to_string(result.batch) + " rows");
  }
  for (std::int64_t pads : result.left_padding) {
    if (pads >= result.length()) {
      refuse(source, "left_padding", *found,
             "less than " + std::to_string(result.length()) +
                 " in every row, the tokens of all steps: a row needs at least one real token");
    }
  }
}

std::optional<SpecialTokens> parse_special_tokens(const Json& document, const std::string& source) {
  if (!document.contains("special_tokens")) return std::nullopt;
  const Json& special = formats::require_object(document, "special_tokens", source);
  const std::string where = source + ": special_tokens";
  formats::refuse_unknown_keys(special, {"every", "last_ids"}, where);
  return SpecialTokens{formats::require_int(special, "every", 1, kMaxLength, where),
                       formats::require_int(special, "last_ids", 1, kMaxTokenId, where)};
}

}  // namespace

Case parse_case(std::string_view text, const std::string& source) {
  const Json document = formats::parse_json(text, source);
  check_format(document, source);
  formats::refuse_unknown_keys(document,
                               {"format", "version", "id", "title", "hypothesis", "stresses", "model", "layers",
                                "batch", "left_padding", "capacity", "seed", "special_tokens", "logits", "steps"},
                               source);
  Case result;
  result.argument = source;
  result.id = require_id(document, source);
  result.title = require_text(document, "title", source);
  result.hypothesis = require_hypothesis(document, source);
  result.stresses = require_text(document, "stresses", source);
  result.model = optional_model(document, source);
  result.layers = parse_layers(document, source);
  result.batch = formats::require_int(document, "batch", 1, kMaxBatch, source);
  parse_steps(document, source, result);
  parse_padding(document, source, result);
  result.capacity = formats::require_int(document, "capacity", 1, kMaxCapacity, source);
  if (result.capacity < result.length()) {
    refuse(source, "capacity", document["capacity"],
           "at least " + std::to_string(result.length()) + ", the tokens of all steps");
  }
  result.seed = static_cast<std::uint64_t>(formats::require_int(document, "seed", 0, kMaxSeed, source));
  result.special_tokens = parse_special_tokens(document, source);
  return result;
}

}  // namespace qdiff::cases

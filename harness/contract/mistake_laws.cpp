#include "harness/contract/mistake_laws.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "harness/contract/dtype.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"

namespace qdiff {
namespace {

// A whole number at the start of the text, which is taken off.
std::optional<std::int64_t> take_number(std::string_view& text) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 20;  // as of a known bug's count: beyond any model's dimensions
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || value > kLargest || value < -kLargest) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

// "a + 3" and "a - 3" are one pattern with a number of either sign; "a" alone has 0.
std::optional<std::int64_t> match_shift(std::string_view text, std::string_view before) {
  if (text == before) return 0;
  if (const auto plus = match_numbers(text, std::string(before) + " + #")) {
    return plus->front() > 0 ? std::optional(plus->front()) : std::nullopt;
  }
  if (const auto minus = match_numbers(text, std::string(before) + " - #")) {
    return minus->front() > 0 ? std::optional(-minus->front()) : std::nullopt;
  }
  return std::nullopt;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + separator.size());
  }
}

std::optional<std::vector<std::int64_t>> number_list(std::string_view text, std::string_view separator) {
  std::vector<std::int64_t> numbers;
  for (std::string_view part : split(text, separator)) {
    const auto number = match_numbers(part, "#");
    if (!number || number->front() < 0) return std::nullopt;
    numbers.push_back(number->front());
  }
  return numbers;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }

struct GateFunction {
  std::string words;
  std::function<double(double)> at;
};

const std::vector<GateFunction>& listed_functions() {
  static const std::vector<GateFunction> kListed = {
      {"GELU", [](double x) { return 0.5 * x * std::erfc(-x / std::numbers::sqrt2); }},
      {"GELU by tanh",
       [](double x) {
         return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
       }},
      {"x * sigmoid(1.702 x)", [](double x) { return x * sigmoid(1.702 * x); }},
      {"ReLU", [](double x) { return std::max(x, 0.0); }},
      {"ReLU squared", [](double x) { return std::max(x, 0.0) * std::max(x, 0.0); }},
      {"the sigmoid", sigmoid},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"the gate itself", [](double x) { return x; }},
      {"1", [](double) { return 1.0; }},
      {"-x * sigmoid(-x)", [](double x) { return -silu(-x); }},
  };
  return kListed;
}

// A positive number that is the whole text.
std::optional<double> positive(std::string_view text) {
  const auto value = number_in<double>(text);
  return value && std::isfinite(*value) && *value > 0.0 ? value : std::nullopt;
}

}  // namespace

std::optional<std::vector<std::int64_t>> match_numbers(std::string_view text, std::string_view pattern) {
  std::vector<std::int64_t> numbers;
  for (char expected : pattern) {
    if (expected == '#') {
      const auto number = take_number(text);
      if (!number) return std::nullopt;
      numbers.push_back(*number);
    } else {
      if (text.empty() || text.front() != expected) return std::nullopt;
      text.remove_prefix(1);
    }
  }
  if (!text.empty()) return std::nullopt;
  return numbers;
}

std::int64_t HeadLaw::at(std::int64_t h, std::int64_t of) const {
  switch (kind) {
    case Kind::kModulo:
      return h % number;
    case Kind::kDividedBy:
      return std::min(h / number, of - 1);
    case Kind::kFromEnd:
      return number - h;
    case Kind::kShifted:
      return (h + number) % modulus;
    case Kind::kConstant:
      return number;
    case Kind::kTable:
      break;
  }
  return table.at(static_cast<std::size_t>(h));
}

std::optional<HeadLaw> parse_head_law(std::string_view text) {
  using Kind = HeadLaw::Kind;
  if (const auto found = match_numbers(text, "h % #"); found && (*found)[0] > 0) {
    return HeadLaw{Kind::kModulo, (*found)[0]};
  }
  if (const auto found = match_numbers(text, "h / #"); found && (*found)[0] > 0) {
    return HeadLaw{Kind::kDividedBy, (*found)[0]};
  }
  if (const auto found = match_numbers(text, "# - h"); found && (*found)[0] >= 0) {
    return HeadLaw{Kind::kFromEnd, (*found)[0]};
  }
  if (const auto found = match_numbers(text, "(h + #) % #"); found && (*found)[0] >= 0 && (*found)[1] > 0) {
    return HeadLaw{Kind::kShifted, (*found)[0], (*found)[1]};
  }
  const auto table = number_list(text, " ");
  if (!table) return std::nullopt;
  if (table->size() == 1) return HeadLaw{Kind::kConstant, table->front()};
  return HeadLaw{Kind::kTable, 0, 0, *table};
}

std::optional<PositionLaw> parse_position_law(std::string_view text) {
  using Kind = PositionLaw::Kind;
  if (const auto found = match_numbers(text, "position #")) return PositionLaw{Kind::kConstant, (*found)[0]};
  if (const auto shift = match_shift(text, "its position"); shift && *shift != 0)
    return PositionLaw{Kind::kPlus, *shift};
  if (const auto found = match_numbers(text, "# times its position")) return PositionLaw{Kind::kTimes, (*found)[0]};
  if (text == "its place in the step") return PositionLaw{Kind::kPlaceInStep};
  if (text == "its cache slot") return PositionLaw{Kind::kSlot};
  if (text == "the position of batch row 0") return PositionLaw{Kind::kOfFirstRow};
  return std::nullopt;
}

std::optional<TableEntry> parse_table_entry(std::string_view text) {
  using Kind = TableEntry::Kind;
  if (text == "0") return TableEntry{Kind::kZero};
  if (text == "1") return TableEntry{Kind::kOne};
  if (const auto shift = match_shift(text, "cosine of p")) return TableEntry{Kind::kCosine, *shift};
  if (const auto shift = match_shift(text, "sine of p")) return TableEntry{Kind::kSine, *shift};
  return std::nullopt;
}

std::optional<VisibleLaw> parse_visible_law(std::string_view text) {
  VisibleLaw law;
  if (text == "exactly what it should hide (the mask is inverted)") {
    law.inverted = true;
    return law;
  }
  constexpr std::string_view kFrom = "from ", kTo = " to ";
  const std::size_t to = text.rfind(kTo);
  if (!text.starts_with(kFrom) || to == std::string_view::npos) return std::nullopt;
  const std::string_view first = text.substr(kFrom.size(), to - kFrom.size()), last = text.substr(to + kTo.size());
  if (first == "slot 0") {
    law.first = VisibleLaw::First::kSlotZero;
  } else if (const auto window = match_numbers(first, "the last # slots up to its own")) {
    law.first = VisibleLaw::First::kWindow;
    law.window = window->front();
    if (law.window < 1) return std::nullopt;
  } else if (first != "its first token") {
    return std::nullopt;
  }
  if (last == "the last slot there is") {
    law.last = VisibleLaw::Last::kEnd;
  } else if (const auto beside = match_shift(last, "its own slot")) {
    law.beside = *beside;
  } else {
    return std::nullopt;
  }
  return law;
}

std::optional<std::vector<std::int64_t>> parse_input_order(std::string_view text) {
  std::vector<std::int64_t> order;
  if (const auto found = match_numbers(text, "blocks of #, backwards")) {
    const std::int64_t block = (*found)[0];
    if (block < 2) return std::nullopt;
    for (std::int64_t i = 0; i < block; ++i) order.push_back(block - 1 - i);
    return order;
  }
  const auto found = match_numbers(text, "blocks of #, where elements # apart were taken as neighbours");
  if (!found) return std::nullopt;
  const std::int64_t block = (*found)[0], apart = (*found)[1];
  if (apart < 2 || block <= apart || block % apart != 0) return std::nullopt;
  const std::int64_t rows = block / apart;
  for (std::int64_t i = 0; i < block; ++i) order.push_back(i % rows * apart + i / rows);
  return order;
}

std::optional<std::vector<ColumnRun>> parse_column_runs(std::string_view text) {
  std::vector<ColumnRun> runs;
  for (std::string_view part : split(text, ", ")) {
    ColumnRun run;
    const std::size_t of = part.find(" of ");
    if (of != std::string_view::npos) {
      const auto source = parse_named_tensor(part.substr(of + 4));
      if (!source || source->layer) return std::nullopt;
      run.source = source->op;
      part = part.substr(0, of);
    }
    bool found = false;
    for (const bool heads : {false, true}) {
      const std::string one = heads ? "head #" : "column #", several = heads ? "heads #..#" : "columns #..#";
      for (const char* verb : {" holds ", " hold "}) {
        if (const auto numbers = match_numbers(part, one + verb + one)) {
          run = {heads, (*numbers)[0], (*numbers)[0], (*numbers)[1], run.source};
          found = true;
        } else if (const auto ends = match_numbers(part, several + verb + several)) {
          run = {heads, (*ends)[0], (*ends)[1], (*ends)[2], run.source};
          found = (*ends)[1] - (*ends)[0] == (*ends)[3] - (*ends)[2];
        }
      }
    }
    if (!found || run.first < 0 || run.last < run.first || run.from < 0) return std::nullopt;
    runs.push_back(run);
  }
  return runs;
}

std::optional<VectorLaw> parse_vector_law(std::string_view text) {
  VectorLaw law;
  if (const std::size_t heads = text.find(", heads 0.."); heads != std::string_view::npos) {
    const std::size_t from = text.find(" from ", heads);
    if (from == std::string_view::npos) return std::nullopt;
    const auto table = number_list(text.substr(from + 6), ", ");
    const auto last = match_numbers(text.substr(heads, from - heads), ", heads 0..#");
    if (!table || !last || static_cast<std::int64_t>(table->size()) != (*last)[0] + 1) return std::nullopt;
    law.heads = *table;
    text = text.substr(0, heads);
  }
  constexpr std::string_view kBatch = " of batch row b";
  if (const std::size_t batch = text.find(kBatch); batch != std::string_view::npos) {
    const auto shift = match_shift(text.substr(batch), kBatch);
    if (!shift) return std::nullopt;
    law.batch_shift = *shift;
    text = text.substr(0, batch);
  }
  if (const std::size_t of = text.find(" of "); of != std::string_view::npos) {
    const auto before = match_numbers(text.substr(of), " of # before");
    const auto behind = match_numbers(text.substr(of), " of # behind");
    if (!before && !behind) return std::nullopt;
    law.shift = before ? -before->front() : behind->front();
    text = text.substr(0, of);
  }
  const auto source = parse_named_tensor(text);
  if (!source || source->layer) return std::nullopt;
  law.source = source->op;
  return law;
}

std::optional<std::function<double(double)>> parse_gate_function(std::string_view text) {
  for (const GateFunction& listed : listed_functions()) {
    if (listed.words == text) return listed.at;
  }
  for (DType type : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (text != "x * (1 - sigmoid(-x)) with the sigmoid rounded to " + std::string(name(type))) continue;
    return [type](double x) {
      const double s = round_to(type, sigmoid(std::fabs(x)));
      return round_to(type, x * (x >= 0.0 ? s : round_to(type, 1.0 - s)));
    };
  }
  constexpr std::string_view kAtMost = "SiLU of at most ";
  if (text.starts_with(kAtMost)) {
    const auto limit = positive(text.substr(kAtMost.size()));
    if (!limit) return std::nullopt;
    return [limit = *limit](double x) { return silu(std::min(x, limit)); };
  }
  constexpr std::string_view kBetween = "SiLU of a gate between -", kAnd = " and ";
  if (!text.starts_with(kBetween)) return std::nullopt;
  const std::string_view limits = text.substr(kBetween.size());
  const std::size_t middle = limits.find(kAnd);
  if (middle == std::string_view::npos || limits.substr(0, middle) != limits.substr(middle + kAnd.size())) {
    return std::nullopt;
  }
  const auto limit = positive(limits.substr(0, middle));
  if (!limit) return std::nullopt;
  return [limit = *limit](double x) { return silu(std::clamp(x, -limit, limit)); };
}

const std::vector<std::string>& gate_functions() {
  static const std::vector<std::string> kWords = texts_of(listed_functions(), &GateFunction::words);
  return kWords;
}

std::optional<NamedTensor> parse_named_tensor(std::string_view text) {
  NamedTensor named;
  constexpr std::string_view kOfLayer = " of layer ";
  if (const std::size_t at = text.find(kOfLayer); at != std::string_view::npos) {
    const auto layer = match_numbers(text.substr(at), " of layer #");
    if (!layer || layer->front() < 0) return std::nullopt;
    named.layer = static_cast<int>(layer->front());
    text = text.substr(0, at);
  } else if (const auto full = parse_tensor_name(text); full && full->layer != kNoLayer) {
    return NamedTensor{full->op, full->layer};
  }
  for (const OperationRow& operation : kOperationTable) {
    if (operation.name != text) continue;
    named.op = operation.op;
    return named;
  }
  return std::nullopt;
}

std::optional<std::pair<std::int64_t, std::int64_t>> parse_inputs_range(std::string_view text) {
  const auto found = match_numbers(text, "inputs #..#");
  if (!found || (*found)[0] < 0 || (*found)[1] < (*found)[0]) return std::nullopt;
  return std::pair((*found)[0], (*found)[1]);
}

}  // namespace qdiff

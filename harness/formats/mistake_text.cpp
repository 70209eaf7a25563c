#include "harness/formats/mistake_text.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/mistake_laws.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

[[noreturn]] void refuse(const std::string& text, const std::string& rule) {
  throw InputError("'" + text + "': " + rule);
}

std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t end = std::min(text.find(';', start), text.size());
    parts.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

std::pair<std::string, std::string> name_and_value(const std::string& part, const std::string& whole) {
  const std::size_t equals = part.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == part.size()) {
    refuse(whole, "'" + part + "' is no name=value; write MECHANISM:name=value;name=value@TENSOR;name=value");
  }
  return {part.substr(0, equals), part.substr(equals + 1)};
}

bool is_called(const MistakeParameter& parameter, const std::string& name) {
  if (!parameter.name.ends_with('*')) return parameter.name == name;
  const std::string_view start = parameter.name.substr(0, parameter.name.size() - 1);
  return name.size() > start.size() && name.starts_with(start);
}

bool is_whole(double value, double least) {
  constexpr double kLargestCount = 1 << 20;  // as of a known bug's count
  return value == std::floor(value) && value >= least && value <= kLargestCount;
}

// Whether a number can be this parameter's in some model.
bool may_be(MistakeKind kind, const std::string& name, double value) {
  switch (kind) {
    case MistakeKind::kNormBlocks:
      return is_whole(value, name == "blocks" ? 2 : 1);
    case MistakeKind::kProductInputOrder:
    case MistakeKind::kProductRows:
      return is_whole(value, 2);
    case MistakeKind::kProductGroups:
      return name == "group" ? is_whole(value, 2) : value > 0.0;
    case MistakeKind::kSoftCap:
      return value > 0.0;
    case MistakeKind::kSum:
      return parse_named_tensor(name).has_value();
    case MistakeKind::kProductCoefficients:
      return parse_inputs_range(name).has_value();
    case MistakeKind::kFactor:
      return name == "factor" || match_numbers(name, "factor of head #").has_value();
    default:
      return true;
  }
}

bool is_norm_weight(const std::string& text) {
  constexpr std::string_view kWeight = ".weight";
  if (text == "1 + w") return true;
  if (!text.ends_with(kWeight)) return false;
  const auto norm = parse_tensor_name(std::string_view(text).substr(0, text.size() - kWeight.size()));
  return norm && arithmetic_of(norm->op) == Arithmetic::kNorm;
}

bool is_permutation(const std::string& text, double block) {
  const auto law = parse_head_law(text);
  if (!law || law->kind != HeadLaw::Kind::kTable || static_cast<double>(law->table.size()) != block) return false;
  std::vector<std::int64_t> sorted = law->table;
  std::ranges::sort(sorted);
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    if (sorted[i] != static_cast<std::int64_t>(i)) return false;
  }
  return true;
}

// Whether words can be this parameter's.
bool may_be(const Mistake& mistake, const std::string& name, const std::string& text) {
  switch (mistake.kind) {
    case MistakeKind::kCopyTensor:
    case MistakeKind::kSource:
    case MistakeKind::kRotationCache:
      return parse_named_tensor(text).has_value();
    case MistakeKind::kCopyVectors:
      return parse_vector_law(text).has_value();
    case MistakeKind::kNormEps:
      return text == "outside the root";
    case MistakeKind::kNormWeight:
      return is_norm_weight(text);
    case MistakeKind::kBias: {
      constexpr std::string_view kBias = ".bias";
      return text.ends_with(kBias) &&
             parse_named_tensor(std::string_view(text).substr(0, text.size() - kBias.size())).has_value();
    }
    case MistakeKind::kBiasRows:
      return parse_column_runs(text).has_value();
    case MistakeKind::kProductRows:
      if (const double* block = mistake.number("block")) return is_permutation(text, *block);
      return parse_column_runs(text).has_value();
    case MistakeKind::kProductInputOrder:
      return parse_input_order(text).has_value();
    case MistakeKind::kRotationPosition:
      return parse_position_law(text).has_value();
    case MistakeKind::kRotationTable:
      return parse_table_entry(text).has_value();
    case MistakeKind::kVisible:
      return parse_visible_law(text).has_value();
    case MistakeKind::kHeadsMoved:
      return parse_head_law(text).has_value();
    case MistakeKind::kHeadsRead:
      return parse_head_law(text).has_value() && parse_named_tensor(name.substr(std::string_view("head of ").size()));
    case MistakeKind::kHeadsLayout:
      return text == "[B,H,T,d]" || text == "[B,T,H,d]";
    case MistakeKind::kGateFunction:
      return parse_gate_function(text).has_value();
    default:
      return true;
  }
}

// Names that a parameter is called by; those that end in "*" stand for many.
std::vector<std::string> parameter_names(const MistakeFacts& facts) {
  return texts_of(facts.parameters, &MistakeParameter::name);
}

void read_parameters(const std::string& text, Mistake& mistake, const std::string& whole) {
  const MistakeFacts& facts = qdiff::facts(mistake.kind);
  const std::string mechanism(facts.name);
  for (const std::string& part : text.empty() ? std::vector<std::string>{} : parts_of(text)) {
    const auto [name, value] = name_and_value(part, whole);
    const auto* parameter =
        std::ranges::find_if(facts.parameters, [&, called = name](const auto& p) { return is_called(p, called); });
    if (parameter == facts.parameters.end()) {
      const std::vector<std::string> names = parameter_names(facts);
      refuse(whole, mechanism + " has no parameter '" + name + "'; it has " +
                        (names.empty() ? "none" : joined(names, ", ")) + suggestion(name, names));
    }
    if (mistake.number(name) != nullptr || mistake.text(name) != nullptr)
      refuse(whole, "'" + name + "' is given twice");
    const std::string rule =
        "'" + name + "' of " + mechanism + " cannot be '" + value + "'; write " + std::string(parameter->form);
    if (parameter->is_number) {
      const auto number = number_in<double>(value);
      if (!number || !std::isfinite(*number) || !may_be(mistake.kind, name, *number)) refuse(whole, rule);
      mistake.parameters.emplace_back(name, *number);
    } else {
      mistake.parameters.emplace_back(name, value);
    }
  }
  // Whether words are right may depend on the numbers beside them.
  for (const auto& [name, value] : mistake.parameters) {
    const auto* words = std::get_if<std::string>(&value);
    const auto* parameter =
        std::ranges::find_if(facts.parameters, [&, called = name](const auto& p) { return is_called(p, called); });
    if (words == nullptr || may_be(mistake, name, *words)) continue;
    refuse(whole,
           "'" + name + "' of " + mechanism + " cannot be '" + *words + "'; write " + std::string(parameter->form));
  }
  bool any = facts.parameters.empty();
  for (const MistakeParameter& parameter : facts.parameters) {
    const bool given =
        std::ranges::any_of(mistake.parameters, [&](const auto& pair) { return is_called(parameter, pair.first); });
    any |= given;
    if (parameter.needed && !given) {
      refuse(whole, mechanism + " needs " + std::string(parameter.name) + ": " + std::string(parameter.form));
    }
  }
  if (!any) refuse(whole, mechanism + " needs one of " + joined(parameter_names(facts), ", "));
}

struct Axis {
  const char* name;
  Selection MistakeScope::*selection;
};
constexpr Axis kAxes[] = {{"layers", &MistakeScope::layers},         {"steps", &MistakeScope::steps},
                          {"batch_rows", &MistakeScope::batch_rows}, {"tokens", &MistakeScope::tokens},
                          {"heads", &MistakeScope::heads},           {"columns", &MistakeScope::columns}};

void read_scope(const std::vector<std::string>& parts, Mistake& mistake, const std::string& whole) {
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const auto [name, value] = name_and_value(parts[i], whole);
    if (name == "phase") {
      if (value != "prefill" && value != "decode") refuse(whole, "phase must be prefill or decode");
      mistake.scope.phase = value == "decode" ? Phase::kDecode : Phase::kPrefill;
      continue;
    }
    std::vector<std::string> names = {"phase"};
    const Axis* axis = nullptr;
    for (const Axis& other : kAxes) {
      names.emplace_back(other.name);
      if (name == other.name) axis = &other;
    }
    if (axis == nullptr) {
      refuse(whole, "there is no scope '" + name + "'; there are " + joined(names, ", ") + suggestion(name, names));
    }
    const auto selection = parse_selection(value);
    if (!selection) refuse(whole, name + " cannot be '" + value + "'; write 3, or 1, 4..6, or 3 and up, or below 7");
    mistake.scope.*axis->selection = *selection;
  }
}

Op read_tensor(const std::string& text, Mistake& mistake, const std::string& whole) {
  const auto named = parse_named_tensor(text);
  if (!named) {
    const auto names = texts_of(kOperationTable, &OperationRow::name);
    refuse(whole, "there is no tensor '" + text + "'; see 'qdiff list tensors'" + suggestion(text, names));
  }
  if (named->layer) mistake.scope.layers = {Selection::Kind::kOnly, 0, {*named->layer}};
  return named->op;
}

}  // namespace

Mistake parse_mistake(const std::string& text) {
  const std::size_t at = text.find('@');
  const std::string before = text.substr(0, at);
  const std::size_t colon = before.find(':');
  const std::string mechanism = before.substr(0, colon);
  const auto kind = parse_mistake_kind(mechanism);
  if (!kind) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < kNumMistakeKinds; ++i) names.emplace_back(facts(static_cast<MistakeKind>(i)).name);
    for (const VariantFacts& facts : fault_table()) names.emplace_back(name(facts.id));
    refuse(text,
           "there is no mechanism '" + mechanism + "'; see 'qdiff list mechanisms'" + suggestion(mechanism, names));
  }
  Mistake mistake{.kind = *kind};
  if (at == std::string::npos) {
    refuse(text, "say at which tensor, as " + mechanism + "[:name=value]@self_attn.q_proj; see 'qdiff list tensors'");
  }
  const std::vector<std::string> behind = parts_of(text.substr(at + 1));
  mistake.op = read_tensor(behind.front(), mistake, text);
  if (!has_mechanism(mistake.op, *kind)) {
    std::vector<std::string_view> names;
    for (const OperationRow& operation : kOperationTable) {
      if (has_mechanism(operation.op, *kind)) names.push_back(operation.name);
    }
    refuse(text, std::string(row(mistake.op).name) + " has no mechanism " + mechanism +
                     "; these have: " + joined(names, ", "));
  }
  read_parameters(colon == std::string::npos ? "" : before.substr(colon + 1), mistake, text);
  read_scope(behind, mistake, text);
  return mistake;
}

}  // namespace qdiff::formats

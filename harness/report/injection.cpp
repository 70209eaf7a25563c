#include "harness/report/injection.h"

#include <algorithm>
#include <string>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/formats/mistake_text.h"

namespace qdiff::report {
namespace {

std::string value_text(const std::variant<double, std::string>& value) {
  const double* number = std::get_if<double>(&value);
  return number != nullptr ? shortest(*number) : std::get<std::string>(value);
}

std::string at_tensor(const findings::Finding& finding) {
  std::string text = '@' + std::string(row(finding.tensor.op).name);
  for (const auto& [axis, indices] : finding.explanation.scope) text += ';' + axis + '=' + value_text(indices);
  return text;
}

// The finding's mistake as text, at its own tensor.
std::string text_of(const findings::Finding& finding) {
  const findings::Explanation& explanation = finding.explanation;
  std::string text = *explanation.mechanism;
  char separator = ':';
  for (const auto& [name, value] : explanation.parameters) {
    text += separator + name + '=' + value_text(value);
    separator = ';';
  }
  return text + at_tensor(finding);
}

}  // namespace

std::optional<Mistake> mistake_of(const findings::Finding& finding) {
  const findings::Explanation& explanation = finding.explanation;
  if (!explanation.mechanism || explanation.mistakes.size() > 1) return std::nullopt;
  try {
    Mistake mistake =
        explanation.mistakes.empty() ? formats::parse_mistake(text_of(finding)) : explanation.mistakes.front();
    if (row(mistake.op).scope != Scope::kLayer || finding.tensor.layer == kNoLayer) return mistake;
    std::vector<std::int64_t> layers(explanation.layers.begin(), explanation.layers.end());
    if (layers.empty()) layers.push_back(finding.tensor.layer);
    std::ranges::sort(layers);
    mistake.scope.layers = {Selection::Kind::kOnly, 0, std::move(layers)};
    return mistake;
  } catch (const InputError&) {  // what was solved for is not always all that an engine needs to be told
    return std::nullopt;
  }
}

MistakeScope scope_of(const findings::Finding& finding) {
  return formats::parse_mistake(std::string(facts(MistakeKind::kCopyZeros).name) + at_tensor(finding)).scope;
}

}  // namespace qdiff::report

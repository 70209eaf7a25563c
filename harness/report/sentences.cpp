#include "harness/report/sentences.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "harness/contract/number_text.h"
#include "harness/report/json.h"

namespace qdiff::report {
namespace {

std::string what_fits(const findings::Explanation& explanation) {
  if (!explanation.verdict) return "";
  const std::string verdict = " (" + std::string(findings::name(*explanation.verdict)) + ')';
  if (explanation.variant) return std::string(name(*explanation.variant)) + verdict;
  if (explanation.mechanism) return *explanation.mechanism + verdict;
  if (!explanation.points.empty()) return "a rounding that is not declared" + verdict;
  return explanation.hypothesis ? *explanation.hypothesis + verdict + ", by no catalogued variant" : "";
}

// ", in layers 0-2, in decode"
std::string extent_of(const findings::Explanation& explanation) {
  std::string text;
  if (!explanation.layers.empty()) {
    text += (explanation.layers.size() == 1 ? ", in layer " : ", in layers ") + ranges(explanation.layers);
  }
  if (explanation.phase == "both") {
    text += ", in prefill and decode";
  } else if (!explanation.phase.empty()) {
    text += ", in " + explanation.phase;
  }
  return text;
}

}  // namespace

std::string ranges(std::vector<int> numbers) {
  std::ranges::sort(numbers);
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] <= numbers[last] + 1) ++last;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (numbers[last] != numbers[i]) text += '-' + std::to_string(numbers[last]);
    i = last + 1;
  }
  return text;
}

// Seven digits leave 1000000 without an exponent.
std::string plain_number(double value) { return digits(value, 7); }

std::string joined(const std::vector<std::string>& items, std::size_t most) {
  std::string text;
  for (std::size_t i = 0; i < items.size() && i < most; ++i) text += (i == 0 ? "" : ", ") + items[i];
  if (items.size() > most) text += " and " + std::to_string(items.size() - most) + " more";
  return text;
}

std::vector<std::string> by_layer(const std::vector<std::string>& names) {
  nlohmann::ordered_map<std::string, std::int64_t> groups;
  for (const std::string& tensor : names) {
    const std::optional<TensorId> id = parse_tensor_name(tensor);
    const bool in_layer = id && id->layer != kNoLayer;
    const std::string group = in_layer ? std::string(row(id->op).name) : tensor;
    groups[group] += in_layer ? 1 : 0;
  }
  std::vector<std::string> texts;
  for (const auto& [group, layers] : groups)
    texts.push_back(layers > 0 ? group + " in " + counted(layers, "layer") : group);
  return texts;
}

std::string cause_without_extent(const findings::Explanation& explanation) {
  std::string text = what_fits(explanation);
  if (text.empty() && !explanation.sentence.empty()) return explanation.sentence;  // of the recorder's mistake
  if (text.empty()) return "unexplained: no known bug and no mechanism reproduces it";
  if (explanation.value) {
    text += ", with " + plain_number(*explanation.value);
    if (explanation.expected_value) text += " where " + plain_number(*explanation.expected_value) + " is right";
  }
  return text;
}

std::string cause_of(const findings::Explanation& explanation) {
  return cause_without_extent(explanation) + extent_of(explanation);
}

std::vector<std::string> alternatives_of(const findings::Explanation& explanation) {
  std::vector<std::string> lines, unseparated;
  for (std::size_t i = 0; i < explanation.alternatives.size(); ++i) {
    const bool separated = i < explanation.separated_by.size() && !explanation.separated_by[i].empty();
    if (separated) {
      lines.push_back(std::string(name(explanation.alternatives[i])) + ": " + explanation.separated_by[i]);
    } else {
      std::string text(name(explanation.alternatives[i]));
      // The same bug with another value, which these inputs do not tell apart.
      const bool same = explanation.alternatives[i] == explanation.variant;
      if (same && i < explanation.alternative_values.size() && explanation.alternative_values[i]) {
        text += " with " + plain_number(*explanation.alternative_values[i]);
      }
      unseparated.push_back(std::move(text));
    }
  }
  if (!unseparated.empty()) lines.push_back(joined(unseparated, 6));
  return lines;
}

std::string points_entry(const std::map<std::string, std::string>& points) {
  std::string text;
  for (const auto& [point, dtype] : points) {
    text += (text.empty() ? "\"points\": {" : ", ") + scalar_text(point) + ": " + scalar_text(dtype);
  }
  return text.empty() ? text : text + '}';
}

std::map<std::string, std::string> points_of(const findings::RunResult& result) {
  std::map<std::string, std::string> points;
  for (const findings::Finding& finding : result.findings) {
    if (finding.kind != findings::FindingKind::kPrecision) continue;
    points.insert(finding.explanation.points.begin(), finding.explanation.points.end());
  }
  return points;
}

std::string conditions_of(const findings::RunResult& result) {
  std::string text;
  for (const std::string& condition : result.conditions) text += "; " + condition;
  return text;
}

bool counts(const findings::RunResult& result, const findings::Finding& finding) {
  return finding.kind == findings::FindingKind::kLogic ||
         (finding.kind == findings::FindingKind::kPrecision && !result.precision_allowed);
}

std::string place_of(const findings::Finding& finding) {
  return "step " + std::to_string(finding.step) + " (" + std::string(name(finding.phase)) + ")" +
         (finding.tensor.layer == kNoLayer ? "" : ", layer " + std::to_string(finding.tensor.layer)) +
         (finding.mode == "trace" ? "" : ", " + finding.mode);
}

std::string closest_of(const findings::RunResult& result) {
  if (!result.closest || !result.findings.empty()) return "";
  const findings::ClosestToBound& closest = *result.closest;
  return compare::in_words(closest.statistic) + " at " + digits(closest.ratio, 3) + " of its bound, in " +
         closest.tensor + " (case " + closest.case_id + ", step " + std::to_string(closest.step) + ")";
}

std::string why_not_judged(const findings::HypothesisResult& hypothesis) {
  if (!hypothesis.blind_variants.empty()) return hypothesis.blind_variants.front().why;
  return hypothesis.evidence.empty() ? "nothing that it could show was run" : hypothesis.evidence.front();
}

std::string dtypes_of(const findings::RunResult& result) {
  std::vector<std::string> dtypes;
  for (const findings::CaseSummary& summary : result.cases) {
    const bool known = std::ranges::find(dtypes, summary.dtype) != dtypes.end();
    if (!summary.dtype.empty() && !known) dtypes.push_back(summary.dtype);
  }
  if (dtypes.empty()) return std::string(name(result.precision.activations));
  return joined(dtypes, 4);
}

}  // namespace qdiff::report

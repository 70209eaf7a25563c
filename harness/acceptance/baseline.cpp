#include "harness/acceptance/baseline.h"

#include <limits>

#include "harness/contract/error.h"
#include "harness/formats/input_file.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::acceptance {
namespace {

using findings::FindingKind;
using formats::Json;

constexpr std::int64_t kMostSteps = std::numeric_limits<std::int32_t>::max();

// "" where it is null or, in a report of an older version, absent.
std::string name_or_none(const Json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || object[key].is_null()) return "";
  return formats::require_string(object, key, where);
}

// As findings::cause_name().
std::string cause_of(const Json& explanation, const std::string& where) {
  for (const char* key : {"variant", "mechanism"}) {
    if (std::string name = name_or_none(explanation, key, where); !name.empty()) return name;
  }
  std::string text;
  if (!explanation.contains("points")) return text;
  for (const auto& [point, dtype] : formats::require_object(explanation, "points", where).items()) {
    text += (text.empty() ? "" : ", ") + point;
  }
  return text;
}

FindingKind kind_of(const Json& finding, const std::string& where) {
  const std::string text = formats::require_string(finding, "kind", where);
  for (std::size_t kind = 0; kind < findings::kFindingKindNames.size(); ++kind) {
    if (text == findings::kFindingKindNames[kind]) return static_cast<FindingKind>(kind);
  }
  throw InputError(where + ": \"kind\" is \"" + formats::printable(text) + "\", which this version does not know");
}

int step_of(const Json& object, const std::string& where) {
  return static_cast<int>(formats::require_int(object, "step", 0, kMostSteps, where));
}

void add_findings(const Json& report, const std::string& source, Baseline& baseline) {
  const Json& list = formats::require_array(report, "findings", source);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = source + ": findings[" + std::to_string(i) + ']';
    if (!list[i].is_object()) throw InputError(where + " is " + formats::show(list[i]) + ", but must be an object");
    baseline.findings.push_back({.case_id = formats::require_string(list[i], "case", where),
                                 .mode = formats::require_string(list[i], "mode", where),
                                 .step = step_of(list[i], where),
                                 .tensor = formats::require_string(list[i], "tensor", where),
                                 .kind = kind_of(list[i], where),
                                 .cause = cause_of(formats::require_object(list[i], "explanation", where), where)});
  }
}

void add_coverage(const Json& report, const std::string& source, Baseline& baseline) {
  const Json& coverage = formats::require_object(report, "coverage", source);
  const Json& list = formats::require_array(coverage, "not_compared", source + ": coverage");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string where = source + ": coverage.not_compared[" + std::to_string(i) + ']';
    if (!list[i].is_object()) throw InputError(where + " is " + formats::show(list[i]) + ", but must be an object");
    baseline.not_compared.push_back({.case_id = formats::require_string(list[i], "case", where),
                                     .mode = formats::require_string(list[i], "mode", where),
                                     .step = step_of(list[i], where),
                                     .tensor = formats::require_string(list[i], "tensor", where),
                                     .reason = formats::require_string(list[i], "reason", where)});
  }
}

Baseline baseline_of(const Json& report, const std::string& source) {
  formats::require_format(report, "qdiff-report", 1, "--baseline takes the folder of an earlier run's reports", source);
  Baseline baseline;
  add_findings(report, source, baseline);
  add_coverage(report, source, baseline);
  const Json& cases = formats::require_array(report, "cases", source);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const std::string where = source + ": cases[" + std::to_string(i) + ']';
    if (!cases[i].is_object()) throw InputError(where + " is " + formats::show(cases[i]) + ", but must be an object");
    baseline.cases.insert(formats::require_string(cases[i], "id", where));
  }
  const std::string command = formats::require_string(report, "command", source);
  baseline.of_trace = command.starts_with("qdiff diagnose");
  return baseline;
}

}  // namespace

Baseline parse_baseline(std::string_view report_json, const std::string& source) {
  return baseline_of(formats::parse_json(report_json, source, kReportLimits), source);
}

Baseline read_baseline(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "report.json";
  if (!formats::path_exists(file)) {
    throw InputError("--baseline '" + formats::printable(folder.string()) +
                     "': there is no report.json in it; name the folder of an earlier run's reports");
  }
  return baseline_of(formats::read_json_file(file, kReportLimits), formats::printable(file.string()));
}

}  // namespace qdiff::acceptance

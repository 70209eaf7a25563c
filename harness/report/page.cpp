// Fills the page of page/: a template with places for the style, the script and the data. What the script reads is
// made here; what it does with it is said in page/page.js.
#include "harness/report/page.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "embedded/report_page.h"
#include "harness/compare/bounds.h"
#include "harness/report/acceptance.h"
#include "harness/report/advice.h"
#include "harness/report/causes.h"
#include "harness/report/json.h"
#include "harness/report/sentences.h"

namespace qdiff::report {
namespace {

using findings::RunResult;

std::string_view part(std::string_view name) {
  for (const embedded::File& file : embedded::report_page()) {
    if (file.name.ends_with(name)) return file.text;
  }
  throw std::logic_error("a part of the report's page is not embedded");
}

// ---- The map: one code a tensor, as page.js decodes it ----

constexpr std::uint16_t kNotJudged = 0, kWrongByGate = 1, kFirstRatio = 16;
constexpr double kStepsPerOctave = 1024.0, kOffset = 32768.0;

std::uint16_t code_of(const findings::JudgedTensor& tensor) {
  const compare::Judgement& judgement = tensor.judgement;
  if (judgement.outcome == compare::Outcome::kUnjudged) return kNotJudged;
  const double ratio = judgement.ratio_to_bound;
  const bool wrong = judgement.outcome == compare::Outcome::kDiverged;
  if (std::isnan(ratio) || (wrong && !(ratio > 0.0))) return kWrongByGate;
  const double code = std::round(kOffset + kStepsPerOctave * std::log2(std::max(ratio, 1e-9)));
  return static_cast<std::uint16_t>(std::clamp(code, double{kFirstRatio}, 65535.0));
}

// RFC 4648, section 4.
std::string base64(const std::vector<std::uint16_t>& codes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  for (const std::uint16_t code : codes) {
    bytes += static_cast<char>(code & 0xFF);
    bytes += static_cast<char>(code >> 8);
  }
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      word = word << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      text += i + j <= bytes.size() ? kAlphabet[word >> (18 - 6 * j) & 63U] : '=';
    }
  }
  return text;
}

struct PlaceOfStep {
  Phase phase = Phase::kPrefill;
  std::vector<std::uint16_t> codes;
};

// Columns are the layers judged and, where something outside them was, one for that. Rows are the table's.
Document map_document(const RunResult& result) {
  std::set<int> layers;
  bool outside = false;
  for (const findings::JudgedTensor& tensor : result.judged) {
    if (tensor.id.layer == kNoLayer)
      outside = true;
    else
      layers.insert(tensor.id.layer);
  }
  std::map<int, std::size_t> column_of;
  Document columns = Document::array();
  for (const int layer : layers) {
    column_of[layer] = columns.size();
    columns.push_back(layer);
  }
  if (outside) {
    column_of[kNoLayer] = columns.size();
    columns.push_back(nullptr);
  }

  using RunKey = std::pair<std::string, std::string>;  // case and mode, in the order judged
  std::vector<RunKey> order;
  std::map<RunKey, std::map<int, PlaceOfStep>> runs;
  for (const findings::JudgedTensor& tensor : result.judged) {
    const RunKey key{tensor.case_id, tensor.mode};
    if (!runs.contains(key)) order.push_back(key);
    PlaceOfStep& step = runs[key][tensor.step];
    step.phase = tensor.phase;
    step.codes.resize(kOperationTable.size() * columns.size(), kNotJudged);
    step.codes[static_cast<std::size_t>(tensor.id.op) * columns.size() + column_of.at(tensor.id.layer)] =
        code_of(tensor);
  }
  Document run_list = Document::array();
  for (const RunKey& key : order) {
    Document steps = Document::array();
    for (const auto& [index, step] : runs.at(key)) {
      steps.push_back({{"index", index},
                       {"name", std::to_string(index) + " (" + std::string(name(step.phase)) + ')'},
                       {"cells", base64(step.codes)}});
    }
    run_list.push_back({{"case", key.first}, {"mode", key.second}, {"steps", steps}});
  }
  Document tensors = Document::array();
  for (const OperationRow& operation : kOperationTable) {
    tensors.push_back({{"name", operation.name}, {"layer", operation.scope == Scope::kLayer}});
  }
  Document map = {{"tensors", tensors}, {"layers", columns}, {"runs", nullptr}};
  map["runs"] = std::move(run_list);  // a list in braces is copied, and this one is long
  return map;
}

// ---- Causes, and what is shown of one wrong tensor ----

Document causes_document(const RunResult& result) {
  return list(causes_of(result), [&](const Cause& cause) -> Document {
    return {{"cause", cause.what},
            {"meaning", cause.meaning},
            {"tensor", cause.tensor},
            {"where", cause.where()},
            {"count", cause.findings.size()},
            {"first", cause.findings.front()},
            {"worst", distance_from_bound(result.findings[cause.worst].judgement)},
            {"worst_finding", cause.worst}};
  });
}

// Where the page opens: at the first divergence, or what else comes first of all that was found.
Document first_document(const RunResult& result) {
  if (result.findings.empty()) return nullptr;
  const findings::Finding* first = result.first_divergence();
  return first == nullptr ? 0 : first - result.findings.data();
}

Document profile_document(const compare::ErrorProfile& profile) {
  const auto short_number = [](double value) { return number(value, 3); };
  const auto axis_document = [&](const compare::ErrorProfile::Axis& axis) -> Document {
    return {{"axis", axis.name}, {"indices_a_bar", axis.indices_a_bar}, {"rms", list(axis.rms, short_number)}};
  };
  const auto element_document = [&](const compare::ErrorProfile::Element& element) -> Document {
    return {{"index", element.index},
            {"actual", number(element.actual, 9)},
            {"expected", number(element.expected, 9)},
            {"error", short_number(element.error)}};
  };
  return {{"axes", list(profile.axes, axis_document)},
          {"histogram", profile.histogram},
          {"worst", list(profile.worst, element_document)}};
}

// Profiles are for looking at single tensors: the first findings have one, and the first and the worst of each cause,
// so that a thousand findings do not make a page that no browser opens.
Document profiles_document(const RunResult& result) {
  constexpr std::size_t kMostProfiles = 200;
  Document profiles = Document::array();
  for (std::size_t i = 0; i < result.findings.size(); ++i) profiles.push_back(nullptr);
  const auto add = [&](std::size_t i) {
    if (result.findings[i].profile) profiles[i] = profile_document(*result.findings[i].profile);
  };
  for (std::size_t i = 0; i < std::min(kMostProfiles, result.findings.size()); ++i) add(i);
  for (const Cause& cause : causes_of(result)) {
    add(cause.findings.front());
    add(cause.worst);
  }
  return profiles;
}

std::string subject_of(const RunResult& result) {
  return result.engine + (result.device.empty() || result.device == result.engine ? "" : " (" + result.device + ")") +
         " in " + dtypes_of(result) + (result.model.empty() ? "" : " on " + result.model) + ", " +
         counted(static_cast<std::int64_t>(result.cases.size()), "case");
}

// Thousands of findings say much the same, and whoever opens a page waits for all of it. A finding is therefore a list,
// in the order in which page.js reads it, whose texts are numbers of entries of one table.
class FindingList {
 public:
  Document document(const RunResult& result) {
    Document rows = Document::array();
    for (const findings::Finding& finding : result.findings) rows.push_back(row_of(finding));
    Document all = {{"texts", nullptr}, {"rows", nullptr}};
    all["texts"] = std::move(texts_);
    all["rows"] = std::move(rows);
    return all;
  }

 private:
  Document row_of(const findings::Finding& finding) {
    const compare::Judgement& judgement = finding.judgement;
    const bool has_worst = !judgement.worst_index.empty();
    const auto value = [&](double x) { return has_worst ? number(x, kElementDigits) : Document(nullptr); };
    // Its worst element stands in the list by itself.
    const std::string reason = error_alone(judgement);
    return Document::array(
        {text(finding.case_id), text(finding.mode), finding.step, layer_document(finding.tensor.layer),
         static_cast<int>(finding.tensor.op), text(findings::name(finding.kind)), reason,
         text(finding.explanation.pattern), text(cause_of(finding.explanation)), text(tensor_name(finding.span_start)),
         text(command_pattern(finding)), judgement.worst_index, value(judgement.actual), value(judgement.expected)});
  }

  // The command with the layer and the step that page.js puts back.
  static std::string command_pattern(const findings::Finding& finding) {
    std::string command = finding.command;
    const auto leave_out = [&](std::string_view option, int index) {
      const std::string words = std::string(option) + std::to_string(index);
      const std::size_t at = command.rfind(words);
      const std::size_t end = at + words.size();
      if (at == std::string::npos || (end < command.size() && command[end] != ' ')) return;
      command.replace(at + option.size(), words.size() - option.size(), 1, kLeftOut);
    };
    leave_out(" --layers ", finding.tensor.layer);
    leave_out(" --steps ", finding.step);
    return command;
  }

  std::size_t text(std::string_view words) {
    const auto [place, is_new] = place_of_.try_emplace(std::string(words), texts_.size());
    if (is_new) texts_.push_back(place->first);
    return place->second;
  }

  static constexpr char kLeftOut = '\1';  // in no command that a shell takes
  std::map<std::string, std::size_t> place_of_;
  Document texts_ = Document::array();
};

Document page_document(const RunResult& result) {
  const auto advice = what_to_record(result);
  Document document = {
      {"sentence", verdict_sentence(result)},
      {"subject", subject_of(result)},
      {"diverged_ratio", compare::kDivergedRatio},
      {"closest", closest_of(result)},
      {"to_record", advice ? Document(sentence_of(*advice)) : Document()},
      {"declaration", points_entry(result.inferred_points ? *result.inferred_points : points_of(result))},
      {"elsewhere", where_else_to_look(result)},
      {"acceptance", result.acceptance ? Document(acceptance_lines(*result.acceptance)) : Document::array()},
      {"causes", causes_document(result)},
      {"first", first_document(result)},
      {"findings", nullptr},
      {"grid", nullptr},
      {"profiles", profiles_document(result)},
      {"histogram_note", compare::ErrorProfile::kHistogramNote},
      {"report", nullptr}};
  // Put in afterwards, for a list in braces is copied.
  document["grid"] = map_document(result);
  document["findings"] = FindingList().document(result);
  document["report"] = document_without_findings(result);
  for (Document& hypothesis : document["report"]["hypotheses"]) hypothesis.erase("shown_by");
  return document;
}

// No '<' stands in the data, so no text of a file can end its block.
std::string harmless(std::string json) {
  if (json.find('<') == std::string::npos) return json;

  std::string text;
  text.reserve(json.size());
  for (const char c : json) {
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  }
  return text;
}

}  // namespace

std::string report_page(const RunResult& result) {
  // The document goes before its text is copied.
  std::string data = scalar_text(page_document(result));
  const std::map<std::string_view, std::string> places = {{"@STYLE@", std::string(part("/page.css"))},
                                                          {"@SCRIPT@", std::string(part("/page.js"))},
                                                          {"@STYLE_HASH@", QDIFF_PAGE_STYLE_HASH},
                                                          {"@SCRIPT_HASH@", QDIFF_PAGE_SCRIPT_HASH},
                                                          {"@DATA@", harmless(std::move(data))}};
  std::string_view rest = part("/page.html");
  std::string page;
  while (!rest.empty()) {
    const std::size_t start = rest.find('@');
    page += rest.substr(0, start);
    if (start == std::string_view::npos) break;
    const std::size_t end = rest.find('@', start + 1) + 1;
    page += places.at(rest.substr(start, end - start));
    rest.remove_prefix(end);
  }
  return page;
}

}  // namespace qdiff::report

// The results as ordered JSON documents, and their text.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "harness/findings/result.h"

namespace qdiff::report {

using Document = nlohmann::ordered_json;

// Rounded to that many significant digits; NaN and infinities become strings.
inline constexpr int kElementDigits = 9;  // enough to tell any two float32 numbers apart
Document number(double value, int significant_digits = 6);

// A value that may be absent, then null: a number by number(), what has a name by its name.
template <typename T>
Document or_null(const std::optional<T>& value) {
  if (!value) return nullptr;
  if constexpr (std::is_same_v<T, double>) {
    return number(*value);
  } else if constexpr (requires { name(*value); }) {
    return name(*value);
  } else {
    return *value;
  }
}
// Null where it is empty.
inline Document or_null(const std::string& text) { return text.empty() ? Document(nullptr) : Document(text); }
// Null outside the layers.
inline Document layer_document(int layer) { return layer == kNoLayer ? Document(nullptr) : Document(layer); }

// What `convert` makes of each.
template <typename Items, typename Convert>
Document list(const Items& items, const Convert& convert) {
  Document documents = Document::array();
  for (const auto& item : items) documents.push_back(convert(item));
  return documents;
}

Document to_document(const findings::RunResult& result);
Document document_without_findings(const findings::RunResult& result);  // `findings` is null
Document to_document(const findings::HypothesisResult& hypothesis);

Document statistics_document(const compare::Statistics& statistics);

// A string, number or null as JSON, under the same rules as to_text().
std::string scalar_text(const Document& value);

// Indented text; an array that holds neither arrays nor objects stands on one line. ASCII only, other characters as
// \u escapes; bytes that are not UTF-8 become U+FFFD.
std::string to_text(const Document& document);

// The ten hypotheses in order; one that the result lacks is not_exercised. They are the result's own, for the cases of
// a large merge make them large.
using HypothesisRef = std::reference_wrapper<const findings::HypothesisResult>;
std::vector<HypothesisRef> all_hypotheses(const findings::RunResult& result);

}  // namespace qdiff::report

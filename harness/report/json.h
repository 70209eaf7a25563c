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

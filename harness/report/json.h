// The results as ordered JSON documents, and their text.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>

#include "harness/findings/result.h"

namespace qdiff::report {

using Document = nlohmann::ordered_json;

// Rounded to that many significant digits; NaN and infinities become strings.
inline constexpr int kElementDigits = 9;  // enough to tell any two float32 numbers apart
Document number(double value, int significant_digits = 6);

// What `convert` makes of each.
template <typename Items, typename Convert>
Document list(const Items& items, const Convert& convert) {
  Document documents = Document::array();
  for (const auto& item : items) documents.push_back(convert(item));
  return documents;
}

// What add_members() is given.
struct Members {
  Document document = Document::object();
  template <typename T>
  void operator()(const std::string& name, const T& value);
};

// Lists members of a struct that a report shows as they are, each by its own name; `case` is a word of C++.
#define QDIFF_REPORTED_MEMBER(member) members(std::string(#member) == "case_id" ? "case" : #member, value.member);
#define QDIFF_REPORTED(Struct, ...)                                                 \
  inline void add_members(::qdiff::report::Members& members, const Struct& value) { \
    NLOHMANN_JSON_EXPAND(NLOHMANN_JSON_PASTE(QDIFF_REPORTED_MEMBER, __VA_ARGS__))   \
  }

// A number by number(), what has a name by its name, what is absent as null, a struct by its members.
template <typename T>
Document document_of(const T& value) {
  if constexpr (std::is_same_v<T, double>) {
    return number(value);
  } else if constexpr (requires { value.has_value(); }) {
    return value ? document_of(*value) : Document(nullptr);
  } else if constexpr (requires { name(value); }) {
    return name(value);
  } else if constexpr (requires(Members members) { add_members(members, value); }) {
    Members members;
    add_members(members, value);
    return std::move(members.document);
  } else if constexpr (requires(T items) { items.emplace_back(); } && !std::is_same_v<T, Document>) {
    return list(value, [](const auto& item) { return document_of(item); });
  } else {
    return value;
  }
}

template <typename T>
void Members::operator()(const std::string& name, const T& value) {
  document[name] = document_of(value);
}

// Null where it is empty.
inline Document or_null(const std::string& text) { return text.empty() ? Document(nullptr) : Document(text); }
// Null outside the layers.
inline Document layer_document(int layer) { return layer == kNoLayer ? Document(nullptr) : Document(layer); }

Document to_document(const findings::RunResult& result);
Document document_without_findings(const findings::RunResult& result);  // `findings` is null, `shown_by` empty
Document to_document(const findings::HypothesisResult& hypothesis);

QDIFF_REPORTED(compare::Statistics, elements_compared, max_excess, rms, worst_slice_rms, worst_slice, bias, slope,
               max_abs_error, relative_rms_error, share_beyond_one_spacing)

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

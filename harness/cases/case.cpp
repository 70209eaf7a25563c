#include "harness/cases/case.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "embedded/case_files.h"
#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/formats/input_file.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"

namespace qdiff::cases {

std::int64_t Case::length() const {
  std::int64_t slots = 0;
  for (const CaseStep& step : steps) slots += step.num_tokens;
  return slots;
}

std::vector<Case> embedded_suite() {
  std::vector<Case> suite;
  for (const embedded::File& file : embedded::case_files()) {
    suite.push_back(parse_case(file.text, std::string(file.name)));
  }
  std::ranges::stable_sort(suite, [](const Case& a, const Case& b) {
    if (a.hypothesis.has_value() != b.hypothesis.has_value()) return a.hypothesis.has_value();
    return a.hypothesis < b.hypothesis;
  });
  return suite;
}

Case load_case(const std::string& path_or_id) {
  std::error_code error;
  if (std::filesystem::exists(path_or_id, error)) {
    return parse_case(formats::read_text_file(path_or_id, formats::kDocumentLimits.bytes), path_or_id);
  }
  std::vector<std::string> ids;
  for (const Case& candidate : embedded_suite()) {
    if (candidate.id == path_or_id || candidate.argument == path_or_id) return candidate;
    ids.push_back(candidate.id);
  }
  if (error) throw InputError(path_or_id + ": the case file cannot be opened: " + error.message());
  throw InputError(path_or_id + ": no such file, nor a case of the built-in suite" +
                   formats::suggestion(std::filesystem::path(path_or_id).stem().string(), ids) + " (it has " +
                   joined(ids, ", ") + ")");
}

}  // namespace qdiff::cases

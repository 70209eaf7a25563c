// The search for the smallest dose of a mistake that is found, by the judge and by other projects' rules.
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/error.h"
#include "harness/diagnose/far/logit_mistakes.h"
#include "harness/selftest/doses.h"
#include "harness/selftest/rivals.h"

namespace qdiff::selftest {

using Finds = std::function<bool(double dose)>;
using Candidate = std::function<std::vector<double>(double dose)>;
using Search = std::function<std::optional<double>(const Finds& finds)>;

inline constexpr int kHalvings = 16;

// Stand: the tensor in which candidates are planted, with tensor(), stored(), judge_finds(values), rival_finds(rival,
// values) and alarms_on_right_code(rival).
template <typename Stand>
SmallestDose search_dose(const Stand& stand, const std::string& parameter, const std::string& unit, double largest,
                         const Candidate& candidate, const Search& search) {
  SmallestDose result{parameter, unit, stand.tensor(), stand.stored(), largest, {}, {}};
  result.found = search([&](double dose) { return stand.judge_finds(candidate(dose)); });
  for (std::size_t r = 0; r < kNumRivals; ++r) {
    const auto rival = static_cast<Rival>(r);
    auto& of_rival = result.rivals[r];
    of_rival.alarms_on_right_code = stand.alarms_on_right_code(rival);
    if (of_rival.alarms_on_right_code) continue;
    of_rival.found = search([&](double dose) { return stand.rival_finds(rival, candidate(dose)); });
  }
  return result;
}

// The first case of the hypothesis, with tokens of tiny embeddings; none: the first that is for everything.
inline const cases::Case& first_of(const std::vector<cases::Case>& suite,
                                   const std::optional<std::string>& hypothesis) {
  for (const cases::Case& test_case : suite) {
    const bool tiny_rows = !hypothesis || test_case.special_tokens.has_value();
    if (test_case.hypothesis == hypothesis && tiny_rows) return test_case;
  }
  throw InputError("the suite has no case for " + hypothesis.value_or("end to end"));
}

}  // namespace qdiff::selftest

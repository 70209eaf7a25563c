// What several reports say in the same words. Text from files is in these sentences as it came: whoever shows them
// makes it harmless for the place (text.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/wording.h"
#include "harness/findings/result.h"

namespace qdiff::report {

// A parameter as one types it: 1000000, 54321, 1e-06.
std::string plain_number(double value);
std::string joined(const std::vector<std::string>& items, std::size_t most);  // "a, b and 3 more"

// "self_attn.scores in 24 layers" for the same tensor of many layers, in the order of first appearance.
std::vector<std::string> by_layer(const std::vector<std::string>& names);

// "0-2, 5"
std::string ranges(std::vector<int> numbers);

// "H03.theta (consistent), with 10000 where 1000000 is right, in layers 0-2, in decode"
std::string cause_of(const findings::Explanation& explanation);
// The same without layers and phase.
std::string cause_without_extent(const findings::Explanation& explanation);

// Each bug that fits equally well, with the input that would tell it from the named one: "H06.missing_q: told apart by
// inputs with only one of: a query bias; a key bias". Those without such an input share the last line.
std::vector<std::string> alternatives_of(const findings::Explanation& explanation);

// The entries of a manifest's `compute` that would declare these roundings, as JSON: "points": {"rope.table":
// "bfloat16"}. Empty where there are none.
std::string points_entry(const std::map<std::string, std::string>& points);
// Those of all precision findings together.
std::map<std::string, std::string> points_of(const findings::RunResult& result);

// Whether the finding makes the verdict diverged.
// "; with the positions that its manifest requests", to be appended to a verdict; empty where it holds as it stands.
std::string conditions_of(const findings::RunResult& result);

// "bfloat16", or of joined results "float32, bfloat16": the types of the engines' tensors.
std::string dtypes_of(const findings::RunResult& result);

bool counts(const findings::RunResult& result, const findings::Finding& finding);

// "step 2 (decode), layer 1, lockstep"
std::string place_of(const findings::Finding& finding);

// "the root mean square error of the worst slice at 0.81 of its bound, in lm_head (case H05-gqa, step 0)"; empty where
// something was found.
std::string closest_of(const findings::RunResult& result);

// Why a hypothesis is blind or was not exercised.
std::string why_not_judged(const findings::HypothesisResult& hypothesis);

}  // namespace qdiff::report

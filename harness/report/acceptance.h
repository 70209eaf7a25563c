// How a run stands with the pipeline that it is part of, in words.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "harness/findings/result.h"
#include "harness/report/json.h"

namespace qdiff::report {

// Whether the finding at this index makes the exit status 1.
bool fails(const findings::RunResult& result, std::size_t finding);

// "2 new, 3 in the baseline" of findings by their indices; empty where nothing was to be accepted.
std::string standing_of(const findings::RunResult& result, const std::vector<std::size_t>& findings);

// Why it is accepted or not; what is known, waived, fixed, and what this run does not say.
std::vector<std::string> acceptance_lines(const findings::Acceptance& acceptance);

Document acceptance_document(const std::optional<findings::Acceptance>& acceptance);

}  // namespace qdiff::report

#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "harness/findings/result.h"

namespace qdiff::report {

// One line of JSON for each judged tensor, in the order judged; schema/tensor.schema.json describes a line.
void write_tensors(const findings::RunResult& result, const std::function<void(std::string_view line)>& write);
std::string tensors_jsonl(const findings::RunResult& result);

}  // namespace qdiff::report

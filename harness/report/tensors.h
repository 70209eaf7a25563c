#pragma once

#include <string>

#include "harness/findings/result.h"

namespace qdiff::report {

// One line of JSON for each judged tensor, in the order judged; schema/tensor.schema.json describes a line.
std::string tensors_jsonl(const findings::RunResult& result);

}  // namespace qdiff::report

// The model that a case runs on.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "harness/cases/case.h"
#include "harness/contract/weights.h"

namespace qdiff::cli {

// The model of the command line, or else the case's own; of its layers those that the case keeps. Throws InputError
// that names the case and its field where there is no such model.
std::unique_ptr<WeightSource> open_model_for(const cases::Case& test_case, const std::optional<std::string>& named);

}  // namespace qdiff::cli

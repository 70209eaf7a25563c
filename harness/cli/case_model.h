// The model that a case names for itself.
#pragma once

#include <memory>

#include "harness/cases/case.h"
#include "harness/contract/weights.h"

namespace qdiff::cli {

// Throws InputError that names the case and its field where there is no such model.
std::unique_ptr<WeightSource> open_model_of(const cases::Case& test_case);

}  // namespace qdiff::cli

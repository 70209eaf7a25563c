#include "harness/cli/case_model.h"

#include "harness/contract/error.h"
#include "harness/model/model.h"

namespace qdiff::cli {

std::unique_ptr<WeightSource> open_model_of(const cases::Case& test_case) {
  try {
    return model::open_model(test_case.model);
  } catch (const InputError& error) {
    throw InputError(test_case.argument + ": \"model\" is \"" + test_case.model + "\": " + error.what());
  }
}

}  // namespace qdiff::cli

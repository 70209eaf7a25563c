#include "harness/cli/case_model.h"

#include "harness/contract/error.h"
#include "harness/model/kept_layers.h"
#include "harness/model/model.h"

namespace qdiff::cli {
namespace {

std::unique_ptr<WeightSource> open_whole(const cases::Case& test_case, const std::optional<std::string>& named) {
  if (named) return model::open_model(*named);
  if (test_case.model.empty()) {
    throw InputError(test_case.argument + ": the case names no model; give one with --model");
  }
  try {
    return model::open_model(test_case.model);
  } catch (const InputError& error) {
    throw InputError(test_case.argument + ": \"model\" is \"" + test_case.model + "\": " + error.what());
  }
}

}  // namespace

std::unique_ptr<WeightSource> open_model_for(const cases::Case& test_case, const std::optional<std::string>& named) {
  std::unique_ptr<WeightSource> whole = open_whole(test_case, named);
  if (test_case.layers.empty()) return whole;
  try {
    return model::keep_layers(std::move(whole), test_case.layers);
  } catch (const InputError& error) {
    throw InputError(test_case.argument + ": \"layers\": " + error.what());
  }
}

}  // namespace qdiff::cli

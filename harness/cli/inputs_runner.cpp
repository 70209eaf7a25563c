#include "harness/cli/inputs_runner.h"

#include <span>
#include <string>
#include <utility>

#include "harness/cli/engines.h"
#include "harness/cli/parties.h"
#include "harness/contract/error.h"
#include "harness/diagnose/run.h"
#include "harness/model/kept_layers.h"

namespace qdiff::cli {
namespace {

CaseInput case_input_of(const reduce::Inputs& inputs) {
  return {.id = "reduced",
          .title = "reduced",
          .hypothesis = std::nullopt,
          .argument = "reduced",
          .capacity = inputs.capacity,
          .steps = inputs.steps};
}

}  // namespace

struct InputsRunner::Parties {
  std::vector<int> layers;
  std::unique_ptr<WeightSource> model;
  std::optional<Injection> inject;
  KeptReference kept;
  std::optional<RunParties> of_run;
};

InputsRunner::InputsRunner(EngineInQuestion engine) : engine_(std::move(engine)) {}
InputsRunner::~InputsRunner() = default;

findings::RunResult InputsRunner::operator()(const reduce::Inputs& inputs, const Judging& judging) {
  if (parties_ == nullptr || parties_->layers != inputs.layers) {
    parties_.reset();  // before the next engine takes its memory
    auto made = std::make_unique<Parties>();
    made->layers = inputs.layers;
    made->model = model::keep_layers(engine_.model, inputs.layers);
    if (engine_.inject) {
      made->inject = reduce::in_layers(*engine_.inject, inputs.layers);
      if (!made->inject) throw InputError("the layers in which " + to_string(*engine_.inject) + " is planted are gone");
    }
    const EngineSettings settings{.dtype = engine_.dtype,
                                  .threads = engine_.threads,
                                  .max_resident_bytes = engine_.max_resident_bytes,
                                  .inject = made->inject};
    made->of_run.emplace(*made->model, engine_.backend, settings, engine_.reference, made->kept);
    parties_ = std::move(made);
  }
  const CaseInput input = case_input_of(inputs);
  diagnose::RunOptions options;
  options.mode = judging.mode;
  options.layers = judging.layers;
  options.steps = judging.steps;
  options.probing = judging.probing;
  options.inject = parties_->inject;
  options.progress = judging.progress;
  return diagnose::run_cases(std::span(&input, 1), parties_->of_run->get(), options);
}

}  // namespace qdiff::cli

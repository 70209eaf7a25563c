// The CPU engine with a known bug planted, recorded on the small case and judged without an explanation, which would
// take most of a diagnosis' time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "harness/cli/tests/trace_sample.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/misrecorded.h"

namespace qdiff {

class PlantedEngine {
 public:
  PlantedEngine(const std::string& model, DType dtype, Keep keep)
      : weights_(model::open_model(model)),
        input_(cases::input_of(small_case(model), weights_->config())),
        engine_(optimized::cpu::make_engine(*weights_, {.dtype = dtype, .num_threads = 1})),
        oracle_(reference::make_oracle(*weights_, {.num_threads = 1})),
        keep_(std::move(keep)) {}

  std::vector<FaultId> faults() const { return engine_->plantable_faults(); }

  // Throws InputError where the engine cannot run with the fault. `look` sees what was judged while the recording
  // lives.
  diagnose::Judged judge(const Fault& fault,
                         const std::function<void(const diagnose::Subject&, const diagnose::Judged&)>& look = {}) {
    engine_->plant(fault);
    const auto session = engine_->open({.batch = input_.steps.front().batch(),
                                        .capacity = input_.capacity,
                                        .left_padding = input_.steps.front().left_padding,
                                        .poison = Poison::kNaN});
    trace::Recording recording;
    std::vector<diagnose::Subject> subjects = {{&input_, "trace", &recording, &recording, {}}};
    for (const Step& step : input_.steps) {
      trace::RecordingSink sink(recording, step.index);
      session->run_step(step, &sink);
      subjects.front().steps.insert(step.index);
    }
    for (const TensorKey& key : recording.keys()) {
      if (!keep_(key.id)) recording.erase(key);
    }
    const auto unexplained = [&](const diagnose::Judged& judged) {
      if (look) look(subjects.front(), judged);
      return true;
    };
    return diagnose::judge_subjects(
        subjects, *oracle_, engine_->precision(), diagnose::select_layers({}, weights_->config()),
        {.probing = false, .progress = {}, .after_part = {}, .is_explained_otherwise = unexplained});
  }

  // What of a recording with the fault is said to be the recorder's; and how much of it is wrong.
  std::vector<diagnose::Misrecorded> find_misrecorded(const Fault& fault, std::size_t& wrong) {
    std::vector<diagnose::Misrecorded> found;
    judge(fault, [&](const diagnose::Subject& subject, const diagnose::Judged& judged) {
      wrong = judged.wrong.size();
      if (wrong > 0) {
        found = diagnose::find_misrecorded(subject, judged, *oracle_, engine_->precision(), [] {});
      }
    });
    return found;
  }

 private:
  std::unique_ptr<WeightSource> weights_;
  CaseInput input_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Oracle> oracle_;
  Keep keep_;
};

}  // namespace qdiff

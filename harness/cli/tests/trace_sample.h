// Traces for tests: an engine records a case, tensors are taken out, and what is left is written and judged.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "harness/cases/case.h"
#include "harness/diagnose/trace_run.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/model/model.h"
#include "harness/trace/recording.h"
#include "harness/trace/trace_writer.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff {

using Keep = std::function<bool(const TensorId&)>;

// Two chunks and two decode steps of a ragged batch, on three layers.
inline cases::Case small_case(const std::string& model = "synthetic:toy-15x5,profile=qwen", std::uint64_t seed = 5) {
  cases::Case small;
  small.id = "small";
  small.model = model;
  small.batch = 2;
  small.left_padding = {0, 3};
  small.capacity = 24;
  small.seed = seed;
  for (std::int64_t tokens : {8, 5, 1, 1}) {
    small.steps.push_back(
        {.phase = tokens > 1 ? Phase::kPrefill : Phase::kDecode, .num_tokens = tokens, .tokens = {}, .positions = {}});
  }
  return small;
}

struct TraceSetting {
  cases::Case test_case = small_case();
  DType dtype = DType::kBF16;
  std::optional<Fault> inject = {};
  bool reference_engine = false;           // else optimized/cpu
  std::optional<Precision> rounds = {};    // how the reference engine rounds, where not plainly
  std::vector<Mistake> mistakes = {};      // of the reference engine
  std::optional<Precision> declared = {};  // in the manifest, where not as the engine rounds
  Keep keep = [](const TensorId&) { return true; };
  bool last_row_of_logits = false;
  std::function<void(const TensorId&, Tensor&)> change = {};  // what another engine would have recorded there
  std::function<void(trace::Recording&)> rewrite = {};        // the same, with all tensors at hand
  std::function<void(std::vector<Step>&)> claim = {};         // steps as the manifest has them
  bool positions_requested = true;                            // it says so of positions that are not the usual
  diagnose::TraceOptions options = {};
};

inline void replace(trace::Recording& recording, const TensorKey& key, Tensor tensor) {
  recording.erase(key);
  recording.put(key, std::move(tensor));
}

// [B,T,V] to [B,1,V].
inline Tensor last_row(const Tensor& logits) {
  const Shape& shape = logits.shape();
  Tensor last(logits.dtype(), {shape[0], 1, shape[2]});
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t v = 0; v < shape[2]; ++v) {
      last.set(b * shape[2] + v, logits.at((b * shape[1] + shape[1] - 1) * shape[2] + v));
    }
  }
  return last;
}

class TraceSample {
 public:
  explicit TraceSample(TraceSetting setting) : setting_(std::move(setting)) {
    const cases::Case& test_case = setting_.test_case;
    model_ = model::open_model(test_case.model);
    const std::unique_ptr<Engine> engine = make_engine();
    if (setting_.inject) engine->plant(*setting_.inject);
    const std::vector<Step> steps = cases::make_steps(test_case, model_->config());
    const auto session = engine->open({.batch = steps.front().batch(),
                                       .capacity = test_case.capacity,
                                       .left_padding = steps.front().left_padding,
                                       .poison = Poison::kNaN});
    trace::Recording recording;
    for (const Step& step : steps) {
      trace::RecordingSink sink(recording, step.index);
      session->run_step(step, &sink);
    }
    for (const TensorKey& key : recording.keys()) {
      if (!setting_.keep(key.id)) recording.erase(key);
    }
    if (setting_.change) {
      for (const TensorKey& key : recording.keys()) {
        Tensor changed = Tensor::copy_of(recording.get(key));
        setting_.change(key.id, changed);
        replace(recording, key, std::move(changed));
      }
    }
    if (setting_.rewrite) setting_.rewrite(recording);
    if (setting_.last_row_of_logits) {
      for (const TensorKey& key : recording.keys()) {
        if (key.id.op != Op::kLmHead) continue;
        replace(recording, key, last_row(Tensor::copy_of(recording.get(key))));
      }
    }
    trace::Manifest about;
    about.engine = {engine->name(), "1", "cpu"};
    about.precision = setting_.declared.value_or(engine->precision());
    about.config = trace::declare(model_->config());
    std::vector<Step> claimed = steps;
    if (setting_.claim) setting_.claim(claimed);
    trace::write_trace(folder_.path() / "trace", about, claimed, recording);
    if (!setting_.positions_requested) forget_who_chose_positions();
    planted_executions_ = engine->planted_executions();
  }

  std::int64_t planted_executions() const { return planted_executions_; }

  findings::RunResult judge() const {
    const auto trace = trace::read_trace(folder_.path() / "trace");
    const auto oracle = reference::make_oracle(*model_, {});
    diagnose::TraceOptions options = setting_.options;
    options.id = "trace";
    options.command = "qdiff diagnose --model M --trace trace";
    return diagnose::judge_trace(
        {*trace, *model_, *oracle,
         [this](const Precision& precision) { return reference::make_engine(*model_, precision, {}); }},
        options);
  }

 private:
  void forget_who_chose_positions() const {
    const std::filesystem::path path = folder_.path() / "trace" / trace::kManifestName;
    std::string text = formats::read_text_file(path, std::size_t{1} << 20);
    const std::string says = "\"positions_are\": \"requested\",\n";
    if (const std::size_t at = text.find(says); at != std::string::npos) text.erase(at, says.size());
    formats::write_file(path, text);
  }

  std::unique_ptr<Engine> make_engine() const {
    if (setting_.reference_engine) {
      return reference::make_engine(*model_, setting_.rounds.value_or(plain_precision(setting_.dtype)), {},
                                    setting_.mistakes);
    }
    return optimized::cpu::make_engine(*model_, {.dtype = setting_.dtype, .num_threads = 2});
  }

  TraceSetting setting_;
  std::unique_ptr<WeightSource> model_;
  testing::TemporaryDirectory folder_;
  std::int64_t planted_executions_ = 0;
};

inline findings::RunResult judge_trace_of(const TraceSetting& setting) { return TraceSample(setting).judge(); }

// ---- What a trace keeps ----
inline bool everything(const TensorId&) { return true; }
inline bool required_tensors(const TensorId& id) { return !row(id.op).optional; }
inline bool layer_outputs(const TensorId& id) {
  return id.op == Op::kEmbedTokens || id.op == Op::kOutput || id.op == Op::kLmHead;
}
inline bool logits_alone(const TensorId& id) { return id.op == Op::kLmHead; }

}  // namespace qdiff

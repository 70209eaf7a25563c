#include <cstdio>
#include <memory>

#include "harness/cases/case.h"
#include "harness/cli/commands.h"
#include "harness/cli/engines.h"
#include "harness/cli/gemm_table.h"
#include "harness/cli/memory.h"
#include "harness/cli/progress.h"
#include "harness/cli/text.h"
#include "harness/model/model.h"
#include "harness/trace/recording.h"
#include "harness/trace/trace_writer.h"

namespace qdiff::cli {
namespace {

// One step, part by part, each part fed with what the engine itself put out before. With `verify`, returns the tensors
// that were written again after they had been handed out.
std::vector<std::string> record_step(Session& session, const Step& step, int num_layers, bool verify,
                                     trace::Recording& recording) {
  trace::RecordingSink sink(recording, step.index);
  std::vector<std::string> changed;
  const auto end_part = [&] {
    if (!verify) return;
    for (std::string& name : sink.verify_unchanged()) changed.push_back(std::move(name));
  };
  // Copies: the view that one part returns ends with the call of the next.
  Tensor residual = Tensor::copy_of(session.run_embedding(step, &sink));
  end_part();
  for (int layer = 0; layer < num_layers; ++layer) {
    residual = Tensor::copy_of(session.run_layer(layer, step, residual.view(), &sink));
    end_part();
  }
  session.run_head(step, residual.view(), &sink);
  end_part();
  return changed;
}

std::string device_text(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace

ExitStatus record_command(const RecordArguments& arguments) {
  check_available(arguments.engine);
  const cases::Case test_case = cases::load_case(arguments.test_case);
  const auto model = model::open_model(arguments.model);
  const ModelConfig& config = model->config();
  const std::vector<Step> steps = cases::make_steps(test_case, config);
  const DType dtype = arguments.dtype.value_or(config.dtype);
  const std::uint64_t limit = memory_limit(arguments.common.max_memory);
  const MemoryPlan plan = plan_record(config, dtype, {.steps = steps, .capacity = test_case.capacity, .recordings = 1},
                                      arguments.engine == EngineKind::kReference, limit);
  check_memory(plan, limit, arguments.common.max_memory.has_value());
  const auto engine = make_engine(arguments.engine, *model,
                                  {.dtype = dtype,
                                   .threads = arguments.common.threads,
                                   .max_resident_bytes = plan.max_resident_bytes,
                                   .inject = arguments.inject});
  if (arguments.print_gemms) {
    std::fputs(gemm_table(engine->gemms(), config, engine->name(), arguments.model).c_str(), stdout);
  }

  trace::TraceWriter writer(arguments.trace);
  Progress progress(arguments.common.quiet);
  const auto session = engine->open({.batch = steps.front().batch(),
                                     .capacity = test_case.capacity,
                                     .left_padding = steps.front().left_padding,
                                     .poison = Poison::kNaN});
  // The reference's operations are pure functions: nothing is written twice, and each result is freed once it is used.
  const bool verify = arguments.engine != EngineKind::kReference;
  std::size_t num_tensors = 0, bytes = 0;
  for (const Step& step : steps) {
    progress.show("recording " + test_case.id, step.index, static_cast<std::int64_t>(steps.size()));
    trace::Recording recording;
    const auto changed = record_step(*session, step, static_cast<int>(config.num_layers), verify, recording);
    for (const std::string& name : changed) {
      progress.clear();
      std::fprintf(stderr, "qdiff: warning: the engine wrote %s of step %d again after it had handed it out\n",
                   name.c_str(), step.index);
    }
    writer.write_step(step, recording);
    num_tensors += recording.size();
    bytes += recording.bytes();
  }
  progress.clear();
  if (arguments.inject && engine->planted_executions() == 0) {
    throw CannotJudgeError("the planted fault " + to_string(*arguments.inject) +
                           " never ran in a place where it differs from the right code, so no trace is written; "
                           "choose a case that runs it");
  }
  trace::Manifest about;
  about.engine = {engine->name(), QDIFF_VERSION, device_text(engine->device())};
  about.precision = engine->precision();
  about.config = trace::declare(config);
  about.cache_capacity = test_case.capacity;
  writer.commit(std::move(about));
  if (!arguments.common.quiet) {
    std::printf("wrote %s: %s on %s, engine %s in %s%s, %zu steps, %zu tensors, %s\n",
                one_line(arguments.trace).c_str(), one_line(test_case.id).c_str(), one_line(arguments.model).c_str(),
                engine->name().c_str(), std::string(name(dtype)).c_str(),
                arguments.inject ? (", planted " + to_string(*arguments.inject)).c_str() : "", steps.size(),
                num_tensors, bytes_text(bytes).c_str());
  }
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli

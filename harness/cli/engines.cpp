#include "harness/cli/engines.h"

#include "harness/contract/error.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"
#ifdef QDIFF_HAVE_CUDA
#include "optimized/cuda/engine.h"
#endif

namespace qdiff::cli {

void check_available(EngineKind kind) {
  if (kind != EngineKind::kCuda) return;
#ifdef QDIFF_HAVE_CUDA
  std::string why_not;
  if (optimized::cuda::device_available(&why_not)) return;
  throw CannotJudgeError("the CUDA engine cannot run here: " + why_not + "; use cpu, or a machine that has one");
#else
  throw CannotJudgeError(
      "this qdiff was built without nvcc and has no CUDA engine; use cpu, or build it where nvcc is");
#endif
}

void check_plantable(EngineKind kind, const Injection& injection) {
  if (kind == EngineKind::kReference || std::holds_alternative<Fault>(injection)) return;
  throw InputError("--inject '" + to_string(injection) +
                   "': the optimized engines plant known bugs alone (see 'qdiff list faults'); the reference plants "
                   "mechanisms, with --backend reference of run and --engine reference of record");
}

std::string never_ran(const Injection& injection) {
  return "the planted fault " + to_string(injection) + " never ran in a place where it differs from the right code";
}

void check_place(const Injection& injection, const ModelConfig& config) {
  if (const auto* fault = std::get_if<Fault>(&injection)) return check_fault_layer(*fault, config.num_layers);
  reference::check_mistake(std::get<Mistake>(injection), config);
}

namespace {

std::vector<Mistake> mistakes_of(const EngineSettings& settings) {
  const auto* mistake = settings.inject ? std::get_if<Mistake>(&*settings.inject) : nullptr;
  return mistake == nullptr ? std::vector<Mistake>() : std::vector{*mistake};
}

#ifdef QDIFF_HAVE_CUDA
std::unique_ptr<Engine> make_cuda(const WeightSource& weights, const EngineSettings& settings) {
  optimized::cuda::Options options{.dtype = settings.dtype};
  options.spare_bytes += settings.left_on_device;
  if (settings.progress) {
    options.progress = [&settings](std::int64_t done, std::int64_t total) {
      settings.progress("the engine's weights", done, total);
    };
  }
  return optimized::cuda::make_engine(weights, options);
}
#endif

std::unique_ptr<Engine> make(EngineKind kind, const WeightSource& weights, const EngineSettings& settings) {
  const int threads = settings.threads.value_or(0);
  if (kind == EngineKind::kReference) {
    return reference::make_engine(weights, plain_precision(settings.dtype), {.num_threads = threads},
                                  mistakes_of(settings));
  }
#ifdef QDIFF_HAVE_CUDA
  if (kind == EngineKind::kCuda) return make_cuda(weights, settings);
#endif
  return optimized::cpu::make_engine(
      weights, {.dtype = settings.dtype, .num_threads = threads, .max_resident_bytes = settings.max_resident_bytes});
}

}  // namespace

std::unique_ptr<Engine> make_engine(EngineKind kind, const WeightSource& weights, const EngineSettings& settings) {
  check_available(kind);
  if (settings.inject) check_plantable(kind, *settings.inject);
  std::unique_ptr<Engine> engine = make(kind, weights, settings);
  const auto* fault = settings.inject ? std::get_if<Fault>(&*settings.inject) : nullptr;
  if (fault != nullptr) engine->plant(*fault);
  return engine;
}

}  // namespace qdiff::cli

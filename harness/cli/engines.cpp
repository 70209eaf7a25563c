#include "harness/cli/engines.h"

#include "harness/contract/error.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff::cli {

void check_available(EngineKind kind) {
  if (kind != EngineKind::kCuda) return;
  throw CannotJudgeError("this qdiff has no CUDA engine; use cpu, or a build and a machine that have one");
}

std::unique_ptr<Engine> make_engine(EngineKind kind, const WeightSource& weights, const EngineSettings& settings) {
  check_available(kind);
  std::unique_ptr<Engine> engine;
  const int threads = settings.threads.value_or(0);
  if (kind == EngineKind::kReference) {
    engine = reference::make_engine(weights, plain_precision(settings.dtype), {.num_threads = threads});
  } else {
    engine = optimized::cpu::make_engine(
        weights, {.dtype = settings.dtype, .num_threads = threads, .max_resident_bytes = settings.max_resident_bytes});
  }
  if (settings.inject) {
    check_plantable(*settings.inject, engine->plantable_faults(), engine->name());
    engine->plant(*settings.inject);
  }
  return engine;
}

}  // namespace qdiff::cli

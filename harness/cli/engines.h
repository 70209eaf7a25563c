// The engines that this program is built with, by the names of the command line.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "harness/cli/options.h"
#include "harness/contract/engine.h"
#include "harness/contract/mistake.h"
#include "harness/contract/weights.h"

namespace qdiff::cli {

// Throws CannotJudgeError where the engine is not built in or its device is missing.
void check_available(EngineKind kind);

struct EngineSettings {
  DType dtype = DType::kBF16;
  std::optional<int> threads = {};
  std::int64_t max_resident_bytes = 0;  // of the CPU engine: 0, and all weights stay in memory
  std::int64_t left_on_device = 0;      // of a GPU's memory, by the CUDA engine to others
  // While the CUDA engine reads its weights.
  std::function<void(const std::string& what, std::int64_t done, std::int64_t total)> progress = {};
  std::optional<Injection> inject = {};
};

// Throws InputError where it is a mistake and the engine is another than the reference, which alone plants them.
void check_plantable(EngineKind kind, const Injection& injection);

// "the planted fault H05.modulo never ran in a place where it differs from the right code"
std::string never_ran(const Injection& injection);

// Throws InputError where the model has no place for it.
void check_place(const Injection& injection, const ModelConfig& config);

// `weights` must outlive the engine. Throws InputError where the fault is none of the engine's, or the model has no
// place for the mistake.
std::unique_ptr<Engine> make_engine(EngineKind kind, const WeightSource& weights, const EngineSettings& settings);

}  // namespace qdiff::cli

// An engine of qdiff's own that runs on parts of a case, for the commands that make a failing one smaller.
#pragma once

#include <memory>
#include <optional>

#include "harness/cli/options.h"
#include "harness/cli/reduction.h"
#include "harness/contract/weights.h"

namespace qdiff::cli {

// The engine in question, on a model whose layers can be left out.
struct EngineInQuestion {
  std::shared_ptr<const WeightSource> model;
  EngineKind backend = EngineKind::kCpu;
  reference::Where reference = reference::Where::kBySize;
  DType dtype = DType::kBF16;
  std::optional<int> threads = {};
  std::int64_t max_resident_bytes = 0;
  std::optional<Injection> inject = {};
};

// Runs the main job on inputs. What it needs of a model stays ready as long as the layers are the same.
class InputsRunner {
 public:
  explicit InputsRunner(EngineInQuestion engine);
  ~InputsRunner();
  InputsRunner(const InputsRunner&) = delete;
  InputsRunner& operator=(const InputsRunner&) = delete;

  // Throws InputError where the inputs do not fit, or the layers in which the fault is planted are gone.
  findings::RunResult operator()(const reduce::Inputs& inputs, const Judging& judging);

 private:
  struct Parties;
  EngineInQuestion engine_;
  std::unique_ptr<Parties> parties_;
};

}  // namespace qdiff::cli

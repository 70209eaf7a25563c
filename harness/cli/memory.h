// How much memory a run will take, estimated before any of it is allocated, and how much there may be.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/dtype.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"

namespace qdiff::cli {

struct MemoryPlan {
  struct Part {
    std::string what;
    double bytes;  // double, because a hostile case must not wrap the sum
  };
  std::vector<Part> parts;
  // What the engine may keep of its weights, 0: all of them. Otherwise it reads each layer anew.
  std::int64_t max_resident_bytes = 0;

  double total() const;
};

// One case as the estimate sees it.
struct PlannedCase {
  std::vector<Step> steps;
  std::int64_t capacity = 0;
  int recordings = 1;  // how often its tensors are kept: lockstep and free
  // The engine hands out no scores, and the reference computes those of a span on the GPU.
  bool scores_on_gpu = false;
};

// Of an operation's tensor in a step.
double elements_of(Op op, const Step& step, const ModelConfig& config);

// Judging these cases on one model. Where the engine's weights do not fit into `limit` beside the rest, the plan has it
// stream them.
MemoryPlan plan_run(const ModelConfig& config, DType dtype, const std::vector<PlannedCase>& cases, std::uint64_t limit);
// The same within `--max-memory`, or what there is; checked.
MemoryPlan checked_plan(const ModelConfig& config, DType dtype, const std::vector<PlannedCase>& cases,
                        const std::optional<std::uint64_t>& max_memory);
// Recording one case, step by step.
MemoryPlan plan_record(const ModelConfig& config, DType dtype, const PlannedCase& planned, bool reference,
                       std::uint64_t limit);

// A trace as the estimate sees it.
struct PlannedTrace {
  std::vector<Step> steps;
  double part_bytes = 0.0;     // of its tensors of the layer (or of what is outside the layers) that has most
  double span_elements = 0.0;  // of the tensors between a recorded one and the next, where most are missing
  bool free_runs = false;      // whole forward passes are held against it
  std::size_t passes = 0;      // so many at once
};
MemoryPlan plan_diagnose(const ModelConfig& config, const PlannedTrace& planned);
// What the reference's own forward pass of these steps takes beside that.
double bytes_beside(const ModelConfig& config, const std::vector<Step>& steps);

// `--max-memory`, or else what is free on this machine and what its control group allows.
std::uint64_t memory_limit(const std::optional<std::uint64_t>& given);

// Throws InputError that names the largest part where the plan exceeds the limit.
void check_memory(const MemoryPlan& plan, std::uint64_t limit, bool limit_was_given);

}  // namespace qdiff::cli

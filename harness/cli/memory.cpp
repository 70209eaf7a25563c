#include "harness/cli/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/diagnose/judging.h"
#include "optimized/cpu/engine.h"
#include "reference/memory.h"

namespace qdiff::cli {
namespace {

constexpr double kProgram = 300.0 * 1024 * 1024;  // LibTorch's libraries and its threads; measured 190 MiB

// Bytes for each judged element: gold in fp64, two deviations in fp32, the same again for a variant, what these are
// made of, and what the judge sorts and sums. `largest`: of the largest tensor; `further`: of each other that is judged
// at once with it. Measured on logits of 60,000 words: 62 bytes for each that a longer prefill adds, 80 for each that
// another recording does.
struct JudgedElement {
  double largest, further;
};
constexpr JudgedElement kJudgedElement = {64.0, 80.0};
// Scores and probabilities are computed together, tensor by tensor: both in fp64 with the deviations of each and what
// these are made of. Measured: 180 to 212 bytes for each score of 12 heads with 256, 384 and 512 queries. What is
// expected of the others stands beside that.
constexpr JudgedElement kJudgedScore = {224.0, 16.0};

// Bytes for each element of a span, of gold and of each member of its ensemble: fp64, and half of that again for what
// they are computed from and what freed blocks leave between those in use. Measured under the smallest limits: with
// fp64 alone the peaks lay at 1.09 of them, for layer outputs of 12 small layers and of 3 layers as wide as the 0.5B's.
constexpr double kSpanElement = 1.5 * sizeof(double);

// Bytes for each of the logits that whole passes are held against: the candidate's, gold, those of right code that
// rounds, and those of the pass at hand as they are computed. Measured: 200 bytes for each of 60,000 words that a
// longer prefill adds, judging's own among them.
constexpr double kLogitOfPasses = 144.0;

// What can be taken without swapping (proc(5), "MemAvailable"), the largest number where nobody says.
std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string key; file >> key;) {
    std::uint64_t kibibytes = 0;
    if (key == "MemAvailable:" && file >> kibibytes) return kibibytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::numeric_limits<std::uint64_t>::max();
}

double elements_in(const Shape& shape) {
  double product = 1.0;
  for (std::int64_t dimension : shape) product *= static_cast<double>(dimension);
  return product;
}

// Elements of all weights, and of those of one layer.
struct WeightSizes {
  explicit WeightSizes(const ModelConfig& config) {
    for (const ModelWeight& weight : weights_of(config)) {
      all += elements_in(weight.shape);
      if (weight.id.layer == 0) layer += elements_in(weight.shape);
    }
  }
  double all = 0.0;
  double layer = 0.0;
};

struct StepSizes {
  double layer = 0.0;    // elements of one layer's tensors, without scores and probabilities
  double squares = 0.0;  // elements of these two of one layer
  double outside = 0.0;  // elements of the tensors outside the layers
  double largest = 0.0;  // elements of the largest tensor
  double residual = 0.0;
  double logits = 0.0;
};

// Scores and probabilities are what fused attention does not hold; the judge's own copies are counted as such.
bool is_square(Op op) { return op == Op::kScores || op == Op::kProbs; }

StepSizes sizes_of(const Step& step, const ModelConfig& config) {
  StepSizes sizes;
  for (const OperationRow& operation : kOperationTable) {
    const double elements = elements_of(operation.op, step, config);
    sizes.largest = std::max(sizes.largest, elements);
    if (is_square(operation.op)) {
      sizes.squares += elements;
      continue;
    }
    (operation.scope == Scope::kLayer ? sizes.layer : sizes.outside) += elements;
  }
  sizes.residual = elements_in(output_shape(Op::kOutput, config, step.batch(), step.num_tokens(), 0));
  sizes.logits = elements_in(output_shape(Op::kLmHead, config, step.batch(), step.num_tokens(), 0));
  return sizes;
}

// Judging the operation of which that takes most: its tensors of a layer, of all steps, as many as are judged at once.
double judged_bytes(const std::vector<PlannedCase>& cases, const ModelConfig& config) {
  double most = 0.0;
  for (const OperationRow& operation : kOperationTable) {
    double all = 0.0, largest = 0.0;
    for (const PlannedCase& planned : cases) {
      if (is_square(operation.op) && planned.scores_on_gpu) continue;
      for (const Step& step : planned.steps) {
        const double elements = elements_of(operation.op, step, config);
        all += planned.recordings * elements;
        largest = std::max(largest, elements);
      }
    }
    const double together = std::max(largest, std::min(all, static_cast<double>(diagnose::kElementsAtOnce)));
    const JudgedElement& bytes = is_square(operation.op) ? kJudgedScore : kJudgedElement;
    most = std::max(most, largest * bytes.largest + (together - largest) * bytes.further);
  }
  return most;
}

double cache_of(const PlannedCase& planned, const ModelConfig& config) {
  return 2.0 * static_cast<double>(config.num_layers) * static_cast<double>(planned.steps.front().batch()) *
         static_cast<double>(planned.capacity) * static_cast<double>(config.kv_width());
}

// What one store of the reference's weights keeps, at `converted_bytes` for each element that is computed with.
double reference_weights(const ModelConfig& config, std::size_t converted_bytes) {
  const reference::WeightBudget budget = reference::weight_budget(config);
  const double all = WeightSizes(config).all;
  return std::min(static_cast<double>(budget.converted), all * static_cast<double>(converted_bytes)) +
         std::min(static_cast<double>(budget.stored), all * static_cast<double>(size_of(config.dtype)));
}

// The engine keeps all weights, or, where they do not fit beside the rest, one layer or a block of the vocabulary.
void add_engine_weights(MemoryPlan& plan, const ModelConfig& config, DType dtype, std::uint64_t limit) {
  const double bytes = static_cast<double>(size_of(dtype));
  const WeightSizes sizes(config);
  const double layer = sizes.layer * bytes, all = sizes.all * bytes;
  const double streamed = layer + static_cast<double>(optimized::cpu::kStreamedHeadBytes);
  if (plan.total() + all <= static_cast<double>(limit) || streamed >= all) {
    plan.parts.push_back({"the engine's weights", all});
    return;
  }
  plan.parts.push_back({"one layer of the engine's weights at a time", streamed});
  plan.max_resident_bytes = static_cast<std::int64_t>(std::min(streamed, 0x1p62));
}

std::uint64_t number_in_file(const char* path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? number : std::numeric_limits<std::uint64_t>::max();  // "max": no limit
}

}  // namespace

double elements_of(Op op, const Step& step, const ModelConfig& config) {
  return elements_in(output_shape(op, config, step.batch(), step.num_tokens(), step.valid_length()));
}

double MemoryPlan::total() const {
  double sum = 0.0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

MemoryPlan plan_run(const ModelConfig& config, DType dtype, const std::vector<PlannedCase>& cases,
                    std::uint64_t limit) {
  const auto num_layers = static_cast<double>(config.num_layers);
  double recorded = 0.0, chain = 0.0, cache = 0.0;
  for (const PlannedCase& planned : cases) {
    for (const Step& step : planned.steps) {
      const StepSizes sizes = sizes_of(step, config);
      recorded += planned.recordings * (sizes.layer * num_layers + sizes.outside);
      // Layer inputs rounded for the engine, the reference's logits in fp64, and those of the untapped run.
      chain += sizes.residual * (num_layers + 1.0) * static_cast<double>(size_of(dtype)) +
               sizes.logits * (sizeof(double) + static_cast<double>(size_of(dtype)));
    }
    cache = std::max(cache, cache_of(planned, config));
  }
  MemoryPlan plan;
  plan.parts = {{"the program", kProgram},
                {"the recorded tensors", recorded * static_cast<double>(size_of(dtype))},
                {"the reference's layer inputs and logits", chain},
                // Once in the reference engine, and once in the oracle with the fp32 squares for its noise.
                {"the reference's weights",
                 reference_weights(config, sizeof(double)) + reference_weights(config, reference::kBytesOfBothForms)},
                {"judging the largest tensors", judged_bytes(cases, config)},
                {"the caches", cache * (static_cast<double>(size_of(dtype)) + sizeof(double))}};
  add_engine_weights(plan, config, dtype, limit);
  return plan;
}

MemoryPlan checked_plan(const ModelConfig& config, DType dtype, const std::vector<PlannedCase>& cases,
                        const std::optional<std::uint64_t>& max_memory) {
  const std::uint64_t limit = memory_limit(max_memory);
  MemoryPlan plan = plan_run(config, dtype, cases, limit);
  check_memory(plan, limit, max_memory.has_value());
  return plan;
}

MemoryPlan plan_diagnose(const ModelConfig& config, const PlannedTrace& planned) {
  constexpr double kMembers = reference::kMembers + 1;             // and gold
  double residual = 0.0, logits = 0.0, layer = 0.0, layers = 0.0;  // of the largest step, and of all
  for (const Step& step : planned.steps) {
    const StepSizes sizes = sizes_of(step, config);
    layer = std::max(layer, sizes.layer + sizes.squares);
    layers += sizes.layer;
    residual += sizes.residual;
    logits += sizes.logits;
  }
  MemoryPlan plan;
  plan.parts = {{"the program", kProgram},
                {"the trace's tensors of one layer", planned.part_bytes},
                {"the reference's weights", reference_weights(config, reference::kBytesOfBothForms)},
                {"judging the largest tensors", judged_bytes({{.steps = planned.steps}}, config)},
                {"the span without recorded tensors", planned.span_elements * kMembers * kSpanElement},
                {"what right code computes in such spans",
                 std::min(planned.span_elements * kMembers * static_cast<double>(planned.steps.size()),
                          static_cast<double>(reference::kMostRightMembers)) *
                     sizeof(double)}};
  if (planned.free_runs) {
    const double batch = static_cast<double>(planned.steps.front().batch());
    const double slots = static_cast<double>(planned.steps.back().valid_length());
    // Keys and values in the cache, and once more as they were written; of the layer at hand all tensors, as they are
    // computed with and as they are handed out.
    const double cache = 4.0 * batch * slots * static_cast<double>(config.kv_width() * config.num_layers);
    plan.parts.push_back({"forward passes with each bug planted",
                          (cache + residual + 2.0 * layer) * sizeof(float) * static_cast<double>(planned.passes)});
    // Inputs and values of a layer's products, or of the head's.
    const double products = 2.0 * static_cast<double>(reference::kMostSharedOfStep) * std::max(layers, logits);
    plan.parts.push_back({"products that those passes share",
                          std::min(products, static_cast<double>(reference::kMostSharedProducts)) * sizeof(float)});
    plan.parts.push_back({"the logits", logits * kLogitOfPasses});
    plan.parts.push_back({"the weights of those passes", reference_weights(config, sizeof(double))});
  }
  return plan;
}

double bytes_beside(const ModelConfig& config, const std::vector<Step>& steps) {
  // Logits of all steps in float32, those of one step in float64 twice while they are made, the residual stream behind
  // each layer beside the recorded one, the caches in float64, and weights as they are computed with.
  double bytes = reference_weights(config, sizeof(double)), largest = 0.0, slots = 0.0;
  for (const Step& step : steps) {
    const StepSizes sizes = sizes_of(step, config);
    bytes +=
        sizeof(float) * sizes.logits + sizeof(double) * sizes.residual * static_cast<double>(config.num_layers + 1);
    largest = std::max(largest, sizes.logits);
    slots += static_cast<double>(step.batch()) * static_cast<double>(step.num_tokens());
  }
  return bytes + (2.0 * sizeof(double) + sizeof(float)) * largest +
         2.0 * sizeof(double) * slots * static_cast<double>(config.kv_width() * config.num_layers);
}

MemoryPlan plan_record(const ModelConfig& config, DType dtype, const PlannedCase& planned, bool reference,
                       std::uint64_t limit) {
  const auto num_layers = static_cast<double>(config.num_layers), stored = static_cast<double>(size_of(dtype));
  double recorded = 0.0, largest = 0.0;
  for (const Step& step : planned.steps) {
    const StepSizes sizes = sizes_of(step, config);
    // The reference hands scores and probabilities out too, as it accumulates them.
    const double squares = reference ? sizes.squares * num_layers * sizeof(float) : 0.0;
    recorded = std::max(recorded, (sizes.layer * num_layers + sizes.outside) * stored + squares);
    largest = std::max(largest, sizes.largest);
  }
  const double element = reference ? sizeof(double) : stored;
  MemoryPlan plan;
  plan.parts = {{"the program", kProgram},
                {"the tensors of a step", recorded},
                {"computing the largest tensor", largest * 3.0 * element},
                {"the caches", cache_of(planned, config) * element}};
  if (reference) {
    plan.parts.push_back({"the reference's weights", reference_weights(config, sizeof(double))});
  } else {
    add_engine_weights(plan, config, dtype, limit);
  }
  return plan;
}

std::uint64_t memory_limit(const std::optional<std::uint64_t>& given) {
  if (given) return *given;
  const auto pages = static_cast<std::uint64_t>(std::max(0L, ::sysconf(_SC_PHYS_PAGES)));
  const auto page = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_PAGESIZE)));
  return std::min({pages * page, available_memory(), number_in_file("/sys/fs/cgroup/memory.max"),
                   number_in_file("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
}

void check_memory(const MemoryPlan& plan, std::uint64_t limit, bool limit_was_given) {
  const double total = plan.total();
  if (total <= static_cast<double>(limit)) return;
  const auto largest =
      std::ranges::max_element(plan.parts, [](const auto& a, const auto& b) { return a.bytes < b.bytes; });
  const auto text = [](double bytes) { return bytes_text(static_cast<std::uint64_t>(std::min(bytes, 0x1p63))); };
  throw InputError("this needs about " + text(total) + " of memory (" + largest->what + ": " + text(largest->bytes) +
                   "), but " + (limit_was_given ? "--max-memory allows " : "this machine has free ") +
                   bytes_text(limit) + "; take fewer or shorter cases, or a smaller model");
}

}  // namespace qdiff::cli

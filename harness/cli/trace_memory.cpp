#include "harness/cli/trace_memory.h"

#include <algorithm>
#include <map>
#include <vector>

#include "harness/cli/memory.h"
#include "harness/compare/judge.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/trace_run.h"

namespace qdiff::cli {
namespace {

double elements_of_span(const std::vector<TensorKey>& span, const ModelConfig& config, const std::vector<Step>& steps) {
  double elements = 0.0;
  for (const TensorKey& key : span) {
    elements += elements_of(key.id.op, steps[static_cast<std::size_t>(key.step)], config);
  }
  return elements;
}

}  // namespace

bool check_memory_for(const trace::Trace& trace, const ModelConfig& config, const CommonArguments& common,
                      bool whole_passes) {
  PlannedTrace planned;
  planned.steps = trace.manifest().steps;
  planned.passes = diagnose::kPassesAtOnce;
  planned.free_runs = whole_passes;
  std::map<int, double> part_bytes;
  for (const TensorKey& key : trace.keys()) {
    double& bytes = part_bytes[key.id.layer];
    bytes += static_cast<double>(num_elements(trace.shape(key))) * static_cast<double>(size_of(trace.dtype(key)));
    planned.part_bytes = std::max(planned.part_bytes, bytes);
    const std::vector<TensorKey> span = compare::replay_span(key, trace, config);
    if (diagnose::is_far(span)) {
      planned.free_runs = true;
    } else if (!compare::is_usual_fusion(span)) {
      planned.span_elements = std::max(planned.span_elements, elements_of_span(span, config, planned.steps));
    }
  }
  const std::uint64_t limit = memory_limit(common.max_memory);
  const MemoryPlan plan = plan_diagnose(config, planned);
  check_memory(plan, limit, common.max_memory.has_value());
  return plan.total() + bytes_beside(config, planned.steps) <= static_cast<double>(limit);
}

}  // namespace qdiff::cli

// A recorded trace made smaller as long as it shows the same failure.
#pragma once

#include <memory>
#include <string>

#include "harness/cli/options.h"
#include "harness/cli/progress.h"
#include "harness/contract/oracle.h"
#include "harness/contract/weights.h"
#include "harness/findings/result.h"
#include "harness/reduce/reduce.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::cli {

class TraceReduction {
 public:
  // Throws InputError where the trace or the model is none.
  explicit TraceReduction(const ReduceArguments& arguments);
  ~TraceReduction();
  TraceReduction(const TraceReduction&) = delete;
  TraceReduction& operator=(const TraceReduction&) = delete;

  const reduce::Inputs& whole() const { return whole_; }
  const std::string& name() const { return name_; }  // of the trace's folder
  // The whole trace, or as many of its layers as it takes to find a wrong one.
  findings::RunResult judge_to_first_divergence(Progress& progress);
  reduce::Reduced reduce(const findings::Finding& first, int most_tries, Progress& progress);
  // Writes what is left to `folder`; returns the arguments of `diagnose` that show the failure there.
  std::string write(const reduce::Reduced& reduced, const std::string& folder) const;

 private:
  findings::RunResult judge(const trace::Trace& trace, const std::vector<int>& layers,
                            const diagnose::ProgressReport& progress);
  std::optional<findings::Finding> try_part(const reduce::Inputs& inputs);
  bool has_all_layers() const;
  bool is_part_of_layers(const reduce::Inputs& inputs) const { return inputs.layers.size() < whole_.layers.size(); }

  const ReduceArguments& arguments_;
  std::string name_;
  std::unique_ptr<trace::Trace> trace_;
  std::unique_ptr<WeightSource> model_;
  std::unique_ptr<Oracle> oracle_;
  reduce::Inputs whole_;
  std::string parts_;  // a folder of its own, in which each part is written before it is judged
};

}  // namespace qdiff::cli

#include "harness/cli/trace_reduction.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <system_error>

#include "harness/cli/reduction.h"
#include "harness/cli/text.h"
#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/diagnose/trace_run.h"
#include "harness/model/model.h"
#include "harness/reduce/trace_part.h"
#include "reference/reference.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;

std::string make_temporary_folder() {
  std::string path = (fs::temp_directory_path() / "qdiff-reduce-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) {
    throw InputError(path + " cannot be made: " + std::generic_category().message(errno) +
                     "; set TMPDIR to a folder that can be written");
  }
  return path;
}

}  // namespace

TraceReduction::TraceReduction(const ReduceArguments& arguments)
    : arguments_(arguments),
      name_(folder_name(*arguments.trace)),
      trace_(trace::read_trace(*arguments.trace)),
      model_(model::open_model(*arguments.run.model)),
      oracle_(reference::make_oracle(*model_, {.num_threads = arguments.run.common.threads.value_or(0)})),
      whole_(reduce::inputs_of(*trace_, model_->config().num_layers)),
      parts_(make_temporary_folder()) {}

TraceReduction::~TraceReduction() {
  std::error_code ignored;
  fs::remove_all(parts_, ignored);
}

findings::RunResult TraceReduction::judge(const trace::Trace& trace, const std::vector<int>& layers,
                                          const diagnose::ProgressReport& progress) {
  const auto make_reference = [this](const Precision& precision) {
    return reference::make_engine(*model_, precision, {.num_threads = arguments_.run.common.threads.value_or(0)});
  };
  diagnose::TraceOptions options{.id = name_, .probing = false, .progress = progress};
  if (layers.size() < whole_.layers.size()) options.layers = std::set<int>(layers.begin(), layers.end());
  return diagnose::judge_trace({trace, *model_, *oracle_, make_reference}, options);
}

bool TraceReduction::has_all_layers() const {
  std::set<int> layers;
  for (const TensorKey& key : trace_->keys()) layers.insert(key.id.layer);
  return std::ranges::all_of(whole_.layers, [&](int layer) { return layers.contains(layer); });
}

findings::RunResult TraceReduction::judge_to_first_divergence(Progress& progress) {
  // Where layers are missing, what replay does not reach costs whole forward passes, each time.
  if (has_all_layers()) {
    const auto judge_some = [&](const std::set<int>& layers, bool, const std::string& where) {
      return judge(*trace_, {layers.begin(), layers.end()}, progress.showing(name_ + ", looking " + where + ": "));
    };
    const auto num_layers = static_cast<int>(whole_.layers.size());
    if (auto found = first_wrong_layers(num_layers, judge_some)) return std::move(*found);
  }
  return judge(*trace_, whole_.layers, progress.showing(name_ + ": "));
}

std::optional<findings::Finding> TraceReduction::try_part(const reduce::Inputs& inputs) {
  const fs::path folder = fs::path(parts_) / "part";
  reduce::write_part(*trace_, inputs, model_->config().num_layers, folder);
  try {
    const auto part = trace::read_trace(folder);
    const findings::RunResult result = judge(*part, inputs.layers, {});
    const findings::Finding* found = result.first_divergence();
    return found == nullptr ? std::nullopt : std::optional(*found);
  } catch (const InputError&) {
    return std::nullopt;  // too little is left to be judged
  }
}

reduce::Reduced TraceReduction::reduce(const findings::Finding& first, int most_tries, Progress& progress) {
  reduce::Settings settings = settings_of(most_tries, progress);
  settings.of_trace = true;
  return reduce::reduce(
      whole_, first, [this](const reduce::Inputs& inputs) { return try_part(inputs); }, settings);
}

std::string TraceReduction::write(const reduce::Reduced& reduced, const std::string& folder) const {
  reduce::write_part(*trace_, reduced.inputs, model_->config().num_layers, folder);
  std::string text = " --model " + shell_quote(*arguments_.run.model) + " --trace " + shell_quote(folder);
  if (is_part_of_layers(reduced.inputs)) text += " --layers " + joined(reduced.inputs.layers, ",");
  return text;
}

}  // namespace qdiff::cli

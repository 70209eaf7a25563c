#include <array>
#include <cstdio>
#include <memory>

#include "harness/cli/commands.h"
#include "harness/cli/kept_reference.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/progress.h"
#include "harness/cli/terminal.h"
#include "harness/cli/text.h"
#include "harness/cli/trace_memory.h"
#include "harness/diagnose/reconcile/reconcile.h"
#include "harness/model/model.h"
#include "harness/report/reconciliation.h"
#include "harness/trace/trace_reader.h"
#include "reference/reference.h"

namespace qdiff::cli {

ExitStatus reconcile_command(const ReconcileArguments& arguments, const std::string& command) {
  const std::array<std::string, findings::kNumSides> paths = {arguments.a, arguments.b};
  std::array<std::unique_ptr<trace::Trace>, findings::kNumSides> traces;
  for (std::size_t s = 0; s < paths.size(); ++s) traces[s] = trace::read_trace(paths[s]);
  const auto model = model::open_model(arguments.model);
  check_output_folder(arguments.out);
  report::check_reconciliation(arguments.out);

  Progress progress(arguments.common.quiet);
  const reference::Options reference_options{.num_threads = arguments.common.threads.value_or(0)};
  KeptReference kept(arguments.common);
  const KeptReference::WithParts made = kept.make_oracle(*model, reference_options);
  const auto options_of = [&](std::size_t s) {
    diagnose::TraceOptions options;
    options.id = folder_name(paths[s]);
    options.command = "qdiff diagnose --model " + shell_quote(arguments.model) + " --trace " + shell_quote(paths[s]);
    options.allow_precision = arguments.allow_precision;
    options.probing = false;  // which bugs these inputs would show is no question here
    options.progress = progress.showing(std::string(findings::kSideNames[s]) + ": ");
    options.before_judging = [&, s] { check_memory_for(*traces[s], model->config(), arguments.common, true); };
    options.kept = made.parts;
    return options;
  };
  const auto make_reference = [&](const Precision& precision) {
    return kept.make_engine(*model, precision, reference_options);
  };
  findings::Reconciliation result = diagnose::reconcile({*model, *made.oracle, make_reference},
                                                        {{{*traces[0], options_of(0)}, {*traces[1], options_of(1)}}});
  progress.clear();
  result.command = command;
  if (!arguments.common.quiet) {
    const std::string text = arguments.json
                                 ? report::reconciliation_json(result)
                                 : report::format_reconciliation(result, {.color = use_color(arguments.common.color),
                                                                          .width = output_columns(),
                                                                          .reports = arguments.out,
                                                                          .all = arguments.common.all});
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  report::write_reconciliation(result, arguments.out);
  return status_of(result.verdict);
}

}  // namespace qdiff::cli

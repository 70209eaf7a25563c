#include <cstdio>

#include "harness/cli/commands.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/progress.h"
#include "harness/cli/terminal.h"
#include "harness/compare/pairwise.h"
#include "harness/report/comparison.h"
#include "harness/trace/trace_reader.h"
#include "harness/trace/unknown_tensors.h"

namespace qdiff::cli {

ExitStatus compare_command(const CompareArguments& arguments) {
  const auto actual = trace::read_trace(arguments.actual);
  const auto expected = trace::read_trace(arguments.expected);
  if (arguments.out) {
    check_output_folder(*arguments.out);
    report::check_comparison(*arguments.out);
  }
  Progress progress(arguments.common.quiet);
  const auto after_tensor = [&](std::size_t done, std::size_t total) {
    actual->forget();
    expected->forget();
    progress.show("comparing", static_cast<std::int64_t>(done), static_cast<std::int64_t>(total));
  };
  compare::PairwiseResult result = compare::compare_pairwise({*actual, actual->keys(), actual->manifest().steps},
                                                             {*expected, expected->keys(), expected->manifest().steps},
                                                             arguments.within, after_tensor);
  progress.clear();
  for (const auto* trace : {actual.get(), expected.get()}) {
    for (const std::string& note : trace::notes_on_unknown(*trace)) {
      result.notes.push_back((trace == actual.get() ? "A: " : "B: ") + note);
    }
  }
  const report::ComparedNames names{arguments.actual, arguments.expected};
  if (arguments.out) report::write_comparison(result, names, *arguments.out);
  if (!arguments.common.quiet) {
    const std::string text = report::format_comparison(result, names,
                                                       {.color = use_color(arguments.common.color),
                                                        .width = output_columns(),
                                                        .reports = arguments.out ? *arguments.out : ""});
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  return status_of(result.verdict);
}

}  // namespace qdiff::cli

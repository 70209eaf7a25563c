// The command line of what lies between two traces of the same tokens.
#include <memory>

#include "harness/cli/option_kinds.h"

namespace qdiff::cli {

void add_reconcile(CLI::App& app, CommandLine& line) {
  const auto reconcile = std::make_shared<ReconcileArguments>();
  CLI::App& command =
      add_command(app, line, reconcile, "reconcile",
                  "Say of two traces of the same tokens whether their log-probabilities differ by a bug");
  add_model(command, reconcile->model,
            "Hugging Face directory or .gguf file that both engines ran, or synthetic:NAME[,seed=N][,profile=P]");
  add_place(command, "A", reconcile->a, "A trace, as the trainer's")->required();
  add_place(command, "B", reconcile->b, "Another of the same tokens, as the server's")->required();
  add_out(command, reconcile->out, "Where the reports go (default: qdiff-report)");
  command.add_flag("--allow-precision", reconcile->allow_precision,
                   "Undeclared roundings are reported, but the exit status leaves them aside");
  command.add_flag("--json", reconcile->json, "Print reconcile.json on standard output in the place of the text");
  add_reference_cache(command, reconcile->common);
  command.add_flag("--all", reconcile->common.all, "Show every token, not only those that differ most");
  add_common(command, reconcile->common);
  add_bad_input_status(command);
  command.footer(
      "The two may cut the tokens into other steps and pad them otherwise. Logits are all that is needed of both; the\n"
      "more tensors there are, the smaller a bug is found and the nearer it is placed.\n\n"
      "Examples:\n"
      "  qdiff reconcile --model ~/models/Qwen2.5-0.5B trainer/ server/\n"
      "  qdiff reconcile --model ~/models/Qwen2.5-0.5B trainer/ server/ --json\n\n"
      "Exit status:\n"
      "  0    not a bug: the roundings of both explain the difference\n"
      "  1    a bug in one of them, or a rounding that it does not declare\n"
      "  2    bad usage or bad input: nothing was judged\n"
      "  125  cannot judge here: no token whose logits both hold, or inconclusive\n");
}

}  // namespace qdiff::cli

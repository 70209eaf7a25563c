// Completion scripts of shells, made from the command line's description of itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/cli/command_facts.h"

namespace qdiff::cli {

// Names that stand for a value: what CASE, MODEL or FAULT may be besides a file.
struct CompletionWords {
  std::vector<std::string> cases, models, faults;
};

// The script for "bash", "zsh" or "fish". Throws InputError for another shell, with the nearest name.
std::string completion_script(std::string_view shell, const std::vector<CommandFacts>& commands,
                              const CompletionWords& words);

}  // namespace qdiff::cli

// The manual page, made from the command line's description of itself.
#pragma once

#include <string>
#include <vector>

#include "harness/cli/command_facts.h"

namespace qdiff::cli {

// In the macros of man(7). `version` stands in its foot.
std::string man_page(const std::vector<CommandFacts>& commands, const std::string& version);

}  // namespace qdiff::cli

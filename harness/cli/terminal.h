// What standard output is: a terminal that shows colours, or something that keeps bytes.
#pragma once

#include <string>

#include "harness/cli/options.h"

namespace qdiff::cli {

bool use_color(ColorChoice choice);
int output_columns();  // of the terminal; 100 where there is none

// "  label     text" on standard output, on one line; nothing where there is no text.
void print_field(const char* label, const std::string& text);

}  // namespace qdiff::cli

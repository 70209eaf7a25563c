// What standard output is: a terminal that shows colours, or something that keeps bytes.
#pragma once

#include "harness/cli/options.h"

namespace qdiff::cli {

bool use_color(ColorChoice choice);
int output_columns();  // of the terminal; 100 where there is none

}  // namespace qdiff::cli

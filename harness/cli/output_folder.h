// Where reports go.
#pragma once

#include <string>

namespace qdiff::cli {

// Throws InputError where reports could not be written to `out`, before hours of work whose result would have no place.
void check_output_folder(const std::string& out);

}  // namespace qdiff::cli

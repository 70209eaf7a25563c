// Where reports go.
#pragma once

#include <string>

namespace qdiff::cli {

// Throws InputError where nothing can be written to `out`, before hours of work whose result would have no place. What
// is asked is the file system itself: a folder is made in `out`, or above it where it is not there yet, and removed.
void check_output_folder(const std::string& out);

// The same of the reports of a run, in whose way there may be other files.
void check_report_folder(const std::string& out);

}  // namespace qdiff::cli

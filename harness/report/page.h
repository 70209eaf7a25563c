// The page report.html: one file that holds the whole report, shown by the browser without any request to elsewhere.
#pragma once

#include <string>

#include "harness/findings/result.h"

namespace qdiff::report {

// Self-contained: style, script and data stand in the page, and its content security policy allows nothing else.
std::string report_page(const findings::RunResult& result);

}  // namespace qdiff::report

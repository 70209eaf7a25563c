// Writes the reports of every imagined run, comparison and reconciliation into folders of their own, for
// check_reports.py.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "harness/report/comparison.h"
#include "harness/report/page.h"
#include "harness/report/reconciliation.h"
#include "harness/report/report.h"
#include "harness/report/tests/comparisons.h"
#include "harness/report/tests/reconciliations.h"
#include "harness/report/tests/results.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  for (const auto& [name, result] : qdiff::report::tests::all()) {
    qdiff::report::write_reports(result, std::filesystem::path(argv[1]) / "runs" / name);
  }
  for (const auto& [name, result] : qdiff::report::tests::all_comparisons()) {
    qdiff::report::write_comparison(result, {"actual", "expected"},
                                    std::filesystem::path(argv[1]) / "comparisons" / name);
  }
  for (const auto& [name, result] : qdiff::report::tests::all_reconciliations()) {
    qdiff::report::write_reconciliation(result, std::filesystem::path(argv[1]) / "reconciliations" / name);
  }
  // Their pages alone: the other files grow with the run, as they should.
  const std::filesystem::path large = std::filesystem::path(argv[1]) / "large";
  std::filesystem::create_directories(large);
  for (const auto& [name, result] : {std::pair{"match", qdiff::report::tests::many_layers_match()},
                                     std::pair{"diverged", qdiff::report::tests::many_layers_diverged()}}) {
    std::ofstream(large / (std::string(name) + ".html"), std::ios::binary) << qdiff::report::report_page(result);
  }
  return 0;
}

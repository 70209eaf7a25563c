#include "harness/report/reconciliation.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/report/tests/reconciliations.h"

namespace qdiff::report {
namespace {

using nlohmann::json;

std::string shown(const findings::Reconciliation& result, bool all = false) {
  return format_reconciliation(result, {.color = false, .width = 100, .reports = "", .all = all});
}

TEST_CASE("a reconciliation says first whether it is a bug, and how much is explained", "[reconciliation]") {
  const std::string text = shown(tests::reconciled());
  CHECK_THAT(text,
             StartsWith("MATCH  not a bug: rounding, 1.5 s\n"
                        "  tokens    12 tokens: |log p A - log p B| is 0.0325 nats in the mean and 0.06 at worst"));
  CHECK_THAT(text, ContainsSubstring("explained 100.0 % of it is no more than the roundings of both make\n"));
  CHECK_THAT(text, ContainsSubstring("layers    the residual streams are nowhere further apart than roundings take"));
  CHECK_THAT(text, ContainsSubstring("alarms    0 of 600 pairs of right engines"));
  CHECK_THAT(text, ContainsSubstring("(10 of 12 tokens: those that differ most)"));
  CHECK_THAT(shown(tests::reconciled(), true), !ContainsSubstring("of 12 tokens: those"));
}

TEST_CASE("the side that is wrong shows its tensor, its cause and how to repeat it", "[reconciliation]") {
  const std::string text = shown(tests::parted());
  CHECK_THAT(text, StartsWith("DIVERGED  a bug in B"));
  CHECK_THAT(text, ContainsSubstring("first at  model.layers."));
  CHECK_THAT(text, ContainsSubstring("cause     H0"));
  CHECK_THAT(text, ContainsSubstring("repeat    qdiff "));
  CHECK_THAT(text, ContainsSubstring("layers    the residual streams part at model.layers.1.output: 0.5 apart"));
  CHECK_THAT(text, ContainsSubstring("weaker    nothing but logits"));
}

TEST_CASE("reconcile.json and both diagnoses lie in one folder", "[reconciliation]") {
  const testing::TemporaryDirectory folder;
  write_reconciliation(tests::parted(), folder / "out");
  const json report = json::parse(std::ifstream(folder / "out/reconcile.json"));
  CHECK(report["verdict"] == "diverged");
  CHECK(report["tokens"].size() == 12);
  CHECK(report["tokens"][3]["log_probability"]["b"] == "NaN");
  CHECK(report["share_explained"] == 0.0);
  for (const char* side : {"A", "B"}) CHECK(std::filesystem::exists(folder / "out" / side / "report.json"));
  CHECK(reconciliation_json(tests::parted()) == [&] {
    std::ifstream file(folder / "out/reconcile.json");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }());
}

}  // namespace
}  // namespace qdiff::report

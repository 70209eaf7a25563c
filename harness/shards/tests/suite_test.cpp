#include "harness/shards/suite.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff::shards {
namespace {

TEST_CASE("a suite is read as its schema describes it, and refused with the field named", "[suite]") {
  std::ifstream file(std::string(QDIFF_SOURCE_DIR) + "/harness/shards/tests/documents.json");
  const nlohmann::json table = nlohmann::json::parse(file);
  REQUIRE(table["documents"].size() > 20);
  for (const auto& row : table["documents"]) {
    INFO(row["name"]);
    const auto says = row["says"].get<std::string>();
    if (says.empty()) {
      CHECK_NOTHROW(parse_suite(row["document"].dump(), "s.json"));
    } else {
      CHECK_THROWS_WITH(parse_suite(row["document"].dump(), "s.json"),
                        StartsWith("s.json: ") && ContainsSubstring(says));
      CHECK_THROWS_AS(parse_suite(row["document"].dump(), "s.json"), InputError);
    }
  }
}

TEST_CASE("what a suite does not name is left to its user", "[suite]") {
  const Suite none = parse_suite(R"({"format": "qdiff-suite", "version": 1})", "s.json");
  CHECK((none.models.empty() && none.dtypes.empty() && none.backends.empty() && none.modes.empty() &&
         none.cases.empty() && !none.layers_per_unit));
  const Suite some = parse_suite(R"({"format": "qdiff-suite", "version": 1, "models": [{"name": "a", "path": "../a"}],
                                     "dtypes": ["float16"], "cases": ["x.json"]})",
                                 "s.json");
  REQUIRE(some.models.size() == 1);
  CHECK((some.models[0].name == "a" && some.models[0].path == "../a"));
  CHECK(some.dtypes == std::vector{DType::kF16});
  CHECK(some.cases == std::vector<std::string>{"x.json"});
}

}  // namespace
}  // namespace qdiff::shards

#include "harness/acceptance/waivers.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff::acceptance {
namespace {

using nlohmann::json;

std::string refusal(const std::string& text) {
  try {
    parse_waivers(text, "w.json");
    return "accepted";
  } catch (const InputError& error) {
    return error.what();
  }
}

json document_of(const json& row) {
  if (row.contains("document")) return row["document"];
  return {{"format", "qdiff-waivers"}, {"version", 1}, {"waivers", json::array({row["waiver"]})}};
}

TEST_CASE("waivers: the loader accepts and refuses what its table of documents says", "[acceptance]") {
  std::ifstream file(std::string(QDIFF_SOURCE_DIR) + "/harness/acceptance/tests/documents.json");
  const json table = json::parse(file);
  REQUIRE(table["documents"].size() > 20);
  for (const json& row : table["documents"]) {
    INFO(row["name"].get<std::string>());
    const std::string message = refusal(document_of(row).dump());
    if (row["loader"].get<bool>()) {
      CHECK(message == "accepted");
    } else {
      CHECK_THAT(message, StartsWith("w.json"));
      CHECK_THAT(message, ContainsSubstring(row["says"].get<std::string>()));
    }
  }
}

TEST_CASE("waivers: a waiver fits what agrees with all that it names", "[acceptance]") {
  const std::vector<Waiver> waivers = parse_waivers(R"({"format": "qdiff-waivers", "version": 1, "waivers": [
      {"variant": "H05.modulo", "reason": "r", "link": "https://example.org/1", "expires": "2027-01-31"},
      {"tensor": "model.layers.*.mlp.act", "case": "a", "reason": "r", "link": "https://example.org/1",
       "expires": "2027-01-31"},
      {"tensor": "model.layers.3.mlp.act", "mechanism": "copy.zeros", "reason": "r", "link": "https://example.org/1",
       "expires": "2027-01-31"}]})",
                                                    "w.json");
  REQUIRE(waivers.size() == 3);
  findings::Finding finding;
  finding.case_id = "a";
  finding.tensor = {Op::kAct, 3};
  CHECK_FALSE(waivers[0].fits(finding));
  CHECK(waivers[1].fits(finding));
  CHECK_FALSE(waivers[2].fits(finding));
  finding.explanation.mechanism = "copy.zeros";
  CHECK(waivers[2].fits(finding));
  finding.tensor.layer = 4;
  CHECK(waivers[1].fits(finding));
  CHECK_FALSE(waivers[2].fits(finding));
  finding.case_id = "b";
  finding.explanation.variant = FaultId::kModulo;
  CHECK(waivers[0].fits(finding));
  CHECK_FALSE(waivers[1].fits(finding));
  CHECK(waivers[1].what() == "model.layers.*.mlp.act in case a");
  CHECK(waivers[2].what() == "copy.zeros at model.layers.3.mlp.act");
  CHECK(to_text(waivers[0].expires) == "2027-01-31");
}

}  // namespace
}  // namespace qdiff::acceptance

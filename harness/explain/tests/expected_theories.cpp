#include "harness/explain/tests/expected_theories.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "cmake/catch2.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFile = QDIFF_SOURCE_DIR "/harness/explain/tests/expected_theories.json";

Json json_of(const Facts& facts) {
  Json json = Json::object();
  for (const auto& [key, value] : facts) {
    const double* number = std::get_if<double>(&value);
    json[key] = number != nullptr ? number_text(*number) : std::get<std::string>(value);
  }
  return json;
}

Json json_of(const std::optional<Theory>& theory) {
  if (!theory) return nullptr;
  Json json = {{"mechanism", theory->mechanism}, {"sentence", theory->sentence}};
  if (theory->hypothesis) json["hypothesis"] = *theory->hypothesis;
  if (!theory->parameters.empty()) json["parameters"] = json_of(theory->parameters);
  if (!theory->scope.empty()) json["scope"] = json_of(theory->scope);
  for (const DeclarablePoint& point : theory->points) json["points"][point.key()] = point.value();
  json["bits"] = std::round(theory->bits * 1e3) / 1e3;
  json["evidence"] = std::round(theory->evidence * 1e1) / 1e1;
  return json;
}

// The mistakes of each test, in the order in which it plants them.
struct Expected {
  bool is_written = std::getenv("QDIFF_WRITE_THEORIES") != nullptr;
  Json of_tests;
  std::map<std::string, std::size_t> planted;

  Expected() {
    if (is_written) return;
    std::ifstream file(kFile);
    of_tests = Json::parse(file);
  }
  ~Expected() {
    if (is_written) write();
  }
  // A line for each mistake.
  void write() const {
    std::ofstream file(kFile);
    const char* before = "{\n";
    for (const auto& [test, theories] : of_tests.items()) {
      file << before << ' ' << Json(test).dump() << ": [";
      const char* between = "\n  ";
      for (const Json& theory : theories) {
        file << between << theory.dump();
        between = ",\n  ";
      }
      file << "\n ]";
      before = ",\n";
    }
    file << "\n}\n";
  }
};

}  // namespace

void check_said(const std::optional<Theory>& theory) {
  static Expected expected;
  const std::string test = Catch::getResultCapture().getCurrentTestName();
  const std::size_t place = expected.planted[test]++;
  Json said = json_of(theory);
  if (expected.is_written) {
    expected.of_tests[test].push_back(std::move(said));
    return;
  }
  INFO("mistake " << place << " of this test; explain_tests writes " << kFile << " anew with QDIFF_WRITE_THEORIES=1");
  REQUIRE(expected.of_tests.contains(test));
  REQUIRE(place < expected.of_tests[test].size());
  Json wanted = expected.of_tests[test][place];
  REQUIRE(wanted.is_null() == said.is_null());
  if (said.is_null()) return;
  // Sums over all elements, of which a few may be rounded otherwise where exp or cos are another library's.
  CHECK(said["evidence"].get<double>() == Approx(wanted["evidence"].get<double>()).epsilon(1e-3));
  CHECK(said["bits"].get<double>() == Approx(wanted["bits"].get<double>()).margin(2e-3));
  for (Json* json : {&said, &wanted}) {
    json->erase("evidence");
    json->erase("bits");
  }
  CHECK(said.dump() == wanted.dump());
}

}  // namespace qdiff::explain

#include "harness/cases/case.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff::cases {
namespace {

using nlohmann::json;

const std::string kSource = "folder/some.json";

json read_json(const std::string& path_in_tree) {
  std::ifstream file(std::string(QDIFF_SOURCE_DIR) + '/' + path_in_tree);
  REQUIRE(file);
  return json::parse(file);
}

json build(const json& base, const json& row) {
  json document = base;
  if (row.contains("set")) {
    for (const auto& [pointer, value] : row["set"].items()) document[json::json_pointer(pointer)] = value;
  }
  if (row.contains("remove")) {
    for (const std::string pointer : row["remove"]) {
      const json::json_pointer place(pointer);
      document[place.parent_pointer()].erase(place.back());
    }
  }
  return document;
}

std::string refusal(std::string_view text) {
  try {
    parse_case(text, kSource);
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

std::string replaced(const std::string& text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  REQUIRE(at != std::string::npos);
  std::string result(text, 0, at);
  result.append(by);
  result.append(text, at + what.size(), std::string::npos);
  return result;
}

TEST_CASE("J04 J05 J08: the loader accepts and refuses what its table of documents says", "[cases]") {
  const json table = read_json("harness/cases/tests/documents.json");
  REQUIRE(table["documents"].size() > 80);
  for (const json& row : table["documents"]) {
    INFO(row["name"].get<std::string>());
    const std::string text = build(table["base"], row).dump();
    if (row["loader"].get<bool>()) {
      CHECK(refusal(text) == "accepted");
    } else {
      const std::string message = refusal(text);
      CHECK_THAT(message, StartsWith(kSource + ": "));
      CHECK_THAT(message, ContainsSubstring(row["says"].get<std::string>()));
      CHECK(message.find('\x1b') == std::string::npos);
      CHECK(message.find('\n') == std::string::npos);
    }
  }
}

TEST_CASE("a case that was written is read back the same", "[cases]") {
  std::vector<Case> written = embedded_suite();
  Case given = written.front();
  given.id = "given";
  given.title = "quoted \"title\"";
  given.hypothesis.reset();
  given.model.clear();
  given.layers = {0, 20};
  given.batch = 2;
  given.left_padding = {0, 1};
  given.special_tokens.reset();
  given.steps = {{.phase = Phase::kPrefill, .num_tokens = 2, .tokens = {{1, 2}, {3, 4}}, .positions = {{5, 9}, {0, 3}}},
                 {.phase = Phase::kDecode, .num_tokens = 1, .tokens = {}, .positions = {}}};
  written.push_back(given);
  for (const Case& test_case : written) {
    INFO(to_json(test_case));
    CHECK(parse_case(to_json(test_case), test_case.argument) == test_case);
  }
}

TEST_CASE("what is not one strict JSON document is refused, naming the source", "[cases]") {
  const std::string base = read_json("harness/cases/tests/documents.json")["base"].dump();
  REQUIRE(refusal(base) == "accepted");
  CHECK(refusal(" \n" + base + "\n") == "accepted");
  const std::string duplicate = replaced(base, "{\"batch\"", "{\"seed\":1,\"batch\"");
  const std::string comment = replaced(base, "{\"batch\"", "{/* why */\"batch\"");
  const std::string trailing_comma = replaced(base, "\"version\":1", "\"version\":1,");
  const std::string not_a_number = replaced(base, "\"seed\":7", "\"seed\":NaN");
  const std::string huge = replaced(base, "\"seed\":7", "\"seed\":1e400");
  const std::string bad_utf8 = replaced(base, "Title", "\xC3\x28");
  std::string nested(100000, '[');
  for (const std::string& text :
       {std::string(), std::string("  \n"), base.substr(0, base.size() / 2), base + base, duplicate, comment,
        trailing_comma, not_a_number, huge, bad_utf8, nested, "\xEF\xBB\xBF" + base}) {
    INFO(text.substr(0, 200));
    CHECK_THAT(refusal(text), StartsWith(kSource));
  }
}

TEST_CASE("a case keeps every field of its document", "[cases]") {
  json document = read_json("harness/cases/tests/documents.json")["base"];
  document["special_tokens"] = {{"every", 3}, {"last_ids", 4}};
  document["steps"][1]["tokens"] = {{8}, {9}};
  document["steps"][1]["positions"] = {{6}, {2}};
  const Case test_case = parse_case(document.dump(), kSource);
  CHECK(test_case.argument == kSource);
  CHECK(test_case.id == "H05-gqa");
  CHECK(test_case.title == "Title");
  CHECK(test_case.hypothesis == "H05");
  CHECK(test_case.stresses == "Heads.");
  CHECK(test_case.model == "synthetic:toy");
  CHECK(test_case.batch == 2);
  CHECK(test_case.left_padding == std::vector<std::int64_t>{0, 3});
  CHECK(test_case.capacity == 16);
  CHECK(test_case.seed == 7);
  CHECK(test_case.special_tokens == SpecialTokens{3, 4});
  REQUIRE(test_case.steps.size() == 2);
  CHECK(test_case.steps[0] == CaseStep{Phase::kPrefill, 5, {}, {}});
  CHECK(test_case.steps[1] == CaseStep{Phase::kDecode, 1, {{8}, {9}}, {{6}, {2}}});
  CHECK(test_case.length() == 6);
}

TEST_CASE("the embedded suite is the folder cases/", "[cases]") {
  std::set<std::string> in_folder;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(QDIFF_SOURCE_DIR) + "/cases")) {
    if (entry.path().extension() == ".json" && entry.path().filename() != "case.schema.json") {
      in_folder.insert("cases/" + entry.path().filename().string());
    }
  }
  std::set<std::string> embedded;
  std::set<std::string> ids;
  for (const Case& test_case : embedded_suite()) {
    CHECK(test_case.argument == "cases/" + test_case.id + ".json");  // the id finds the file
    if (test_case.hypothesis) CHECK_THAT(test_case.id, StartsWith(*test_case.hypothesis + "-"));
    CHECK(ids.insert(test_case.id).second);
    embedded.insert(test_case.argument);
  }
  CHECK(embedded == in_folder);
  CHECK(ids.count("H05-gqa") == 1);
}

TEST_CASE("hypotheses' cases come first in the suite", "[cases]") {
  const std::vector<Case> suite = embedded_suite();
  REQUIRE(suite.size() >= 3);
  CHECK(suite.front().hypothesis.has_value());
  CHECK_FALSE(suite.back().hypothesis.has_value());
  for (std::size_t i = 1; i < suite.size(); ++i) {
    CHECK((suite[i - 1].hypothesis.has_value() || !suite[i].hypothesis.has_value()));
  }
}

TEST_CASE("a case is found by id, by its path in the tree and by file", "[cases]") {
  const Case by_id = load_case("H05-gqa");
  CHECK(by_id.id == "H05-gqa");
  CHECK(by_id.argument == "cases/H05-gqa.json");
  CHECK(load_case("cases/H05-gqa.json") == by_id);  // no such file where tests run: the embedded one

  const std::string path = std::string(QDIFF_SOURCE_DIR) + "/cases/H05-gqa.json";
  Case by_file = load_case(path);
  CHECK(by_file.argument == path);
  by_file.argument = by_id.argument;
  CHECK(by_file == by_id);
}

TEST_CASE("J12 a case that is nowhere, a folder, or too large is refused", "[cases]") {
  CHECK_THROWS_WITH(load_case("H05-gpa"), ContainsSubstring("H05-gpa") && ContainsSubstring("H05-gqa"));
  CHECK_THROWS_AS(load_case("H05-gpa"), InputError);
  CHECK_THROWS_AS(load_case(QDIFF_SOURCE_DIR), InputError);
  CHECK_THROWS_AS(load_case("/dev/null"), InputError);
  CHECK_THROWS_AS(load_case("cases/case.schema.json"), InputError);

  const auto path = std::filesystem::temp_directory_path() / "qdiff-too-large-case.json";
  std::ofstream(path) << '{';
  std::filesystem::resize_file(path, (8U << 20) + 1);
  CHECK_THROWS_AS(load_case(path.string()), InputError);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace qdiff::cases

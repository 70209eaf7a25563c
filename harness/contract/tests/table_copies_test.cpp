// The table as people and other languages read it: each copy has every row, under its name, with its shape.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/operation_table.h"

namespace qdiff {
namespace {

struct Copy {
  std::string name;   // without "model.layers.{i}."
  std::string shape;  // "B T H*d"
  bool operator==(const Copy&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Copy& copy) { return out << copy.name << " [" << copy.shape << ']'; }

std::string letters(Dim dim) {
  static const std::map<Dim, std::string> kLetters = {{Dim::kB, "B"},         {Dim::kT, "T"},
                                                      {Dim::kS, "S"},         {Dim::kHidden, "D"},
                                                      {Dim::kQHeads, "H"},    {Dim::kKvHeads, "K"},
                                                      {Dim::kHeadDim, "d"},   {Dim::kQWidth, "H*d"},
                                                      {Dim::kKvWidth, "K*d"}, {Dim::kIntermediate, "I"},
                                                      {Dim::kVocab, "V"}};
  return kLetters.at(dim);
}

std::vector<Copy> rows_of_the_table() {
  std::vector<Copy> rows;
  for (const OperationRow& operation : kOperationTable) {
    std::string shape;
    for (Dim dim : operation.shape) shape += (shape.empty() ? "" : " ") + letters(dim);
    rows.push_back({std::string(operation.name), shape});
  }
  return rows;
}

// In one order, whatever the copy's own.
std::vector<Copy> sorted(std::vector<Copy> rows) {
  std::sort(rows.begin(), rows.end(), [](const Copy& a, const Copy& b) { return a.name < b.name; });
  return rows;
}

// The text of a file of the tree between two marks.
std::string text_of(const std::string& path, const std::string& from, const std::string& to) {
  std::ifstream file(std::string(QDIFF_SOURCE_DIR) + '/' + path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t begin = text.find(from);
  INFO(path << " from " << from << " to " << to);
  REQUIRE(begin != std::string::npos);
  const std::size_t end = text.find(to, begin);
  REQUIRE(end != std::string::npos);
  return text.substr(begin, end - begin);
}

std::vector<std::vector<std::string>> matches(const std::string& text, const char* pattern) {
  std::vector<std::vector<std::string>> found;
  const std::regex regex(pattern);
  for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match) {
    found.emplace_back(match->begin(), match->end());
  }
  return found;
}

std::string replaced(std::string text, const char* pattern, const char* by) {
  return std::regex_replace(text, std::regex(pattern), by);
}

TEST_CASE("the Python writer of traces knows the rows of the table", "[table]") {
  std::vector<Copy> copies;
  for (const auto& match : matches(text_of("python/qdiff/trace_writer.py", "OUTSIDE_LAYERS = ", "DTYPES = "),
                                   R"rx("([a-z_.]+)": "([^"]+)")rx")) {
    copies.push_back({match[1], match[2]});
  }
  CHECK(sorted(copies) == sorted(rows_of_the_table()));
}

TEST_CASE("the C++ writer of traces knows the rows of the table", "[table]") {
  const std::string text = text_of("harness/trace/standalone/trace_writer.h", "contract() {", "return kContract;");
  const auto plain = [](const std::string& list) { return replaced(replaced(list, R"rx(["{}])rx", ""), ", ", " "); };
  std::map<std::string, std::string> shapes;
  for (const auto& match : matches(text, R"rx((k\w+) = (\{"[^}]+\}))rx")) shapes[match[1]] = plain(match[2]);
  std::vector<Copy> copies;
  for (const auto& match : matches(text, R"rx(\{"([a-z_.]+)", (?:(k\w+)|(\{[^}]+\}))\})rx")) {
    copies.push_back({match[1], match[2].empty() ? plain(match[3]) : shapes[match[2]]});
  }
  CHECK(sorted(copies) == sorted(rows_of_the_table()));
}

TEST_CASE("the page on traces lists the rows of the table in their order", "[table]") {
  const std::string text = text_of("docs/trace-format.md", "## 2. Named tensors", "## 3. ");
  std::vector<Copy> copies;
  std::vector<std::string> optional;
  for (const auto& match : matches(text, R"rx(\| `(?:L\.)?([a-z_.]+)` \| \[([^\]]+)\][^|]*\|[^|]*\|( yes)? \|)rx")) {
    copies.push_back({match[1], replaced(replaced(match[2], "·", "*"), ",", " ")});
    if (!match[3].empty()) optional.push_back(match[1]);
  }
  CHECK(copies == rows_of_the_table());
  std::vector<std::string> wanted;
  for (const OperationRow& operation : kOperationTable) {
    if (operation.optional) wanted.emplace_back(operation.name);
  }
  CHECK(optional == wanted);
}

}  // namespace
}  // namespace qdiff

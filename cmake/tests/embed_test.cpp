// What qdiff_embed() compiles in is byte for byte what lies in the source tree, under the tree's own paths.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "cmake/catch2.h"
#include "embedded/probe.h"

namespace {

std::string read_source(std::string_view name) {
  std::ifstream file(std::filesystem::path(QDIFF_SOURCE_DIR) / name, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST_CASE("embedded files equal their sources, in order of path") {
  const auto files = qdiff::embedded::probe();
  REQUIRE(files.size() == 2);
  CHECK(files[0].name == "cmake/tests/data/one.json");
  CHECK(files[1].name == "cmake/tests/data/two.txt");
  for (const qdiff::embedded::File& file : files) {
    CHECK_FALSE(file.text.empty());
    CHECK(file.text == read_source(file.name));
  }
}

}  // namespace

#include "harness/formats/content_hash.h"

#include <string>
#include <string_view>

#include "cmake/catch2.h"

namespace qdiff::formats {
namespace {

TEST_CASE("content hashes tell pieces apart, and every byte counts", "[content_hash]") {
  const auto hash = [](std::string_view a, std::string_view b) { return ContentHash().add(a).add(b).text(); };
  CHECK(hash("ab", "c") == hash("ab", "c"));
  CHECK(hash("ab", "c") != hash("a", "bc"));
  CHECK(hash("", "abc") != hash("abc", ""));
  CHECK(ContentHash().add("0123456789").text().size() == 16);
  const std::string text = "0123456789abcdefg";
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string other = text;
    other[i] ^= 1;
    CHECK(ContentHash().add(other).text() != ContentHash().add(text).text());
  }
}

}  // namespace
}  // namespace qdiff::formats

#include "harness/formats/input_file.h"

#include <array>
#include <utility>

#include "cmake/catch2.h"
#include "harness/formats/limits.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff::formats;
using qdiff::testing::input_error_of;
using qdiff::testing::TemporaryDirectory;

TEST_CASE("ranges of a file are read, and not beyond its end") {
  const TemporaryDirectory directory;
  InputFile opened(directory.write("f", "0123456789"));
  const InputFile file = std::move(opened);
  CHECK(file.size() == 10);
  std::array<std::byte, 4> bytes{};
  file.read(6, bytes);
  CHECK(std::to_integer<char>(bytes[3]) == '9');
  CHECK_NOTHROW(file.read(10, {}));
  CHECK_THAT(input_error_of([&] { file.read(7, bytes); }), ContainsSubstring("ends at byte 10, 1 bytes early"));
  CHECK_THAT(input_error_of([&] { file.read(UINT64_MAX, bytes); }), ContainsSubstring("no byte"));
}

TEST_CASE("a place that the system cannot look at is not an absent one") {
  const TemporaryDirectory directory;
  std::filesystem::create_symlink("b", directory / "a");
  std::filesystem::create_symlink("a", directory / "b");
  std::filesystem::create_symlink("nowhere", directory / "dangling");
  CHECK(path_exists(directory.path()));
  CHECK_FALSE(path_exists(directory / "nothing"));
  CHECK_FALSE(path_exists(directory / "dangling"));
  CHECK_THAT(input_error_of([&] { path_exists(directory / "a"); }),
             ContainsSubstring("Too many levels of symbolic links"));
}

TEST_CASE("a file at the size limit opens, one byte more does not") {
  const TemporaryDirectory directory;
  const auto path = directory.write("sparse", "");
  std::error_code error;
  std::filesystem::resize_file(path, kMaxFileBytes, error);
  if (error) {
    WARN("not tested: this file system has no sparse file of 1 TiB: " << error.message());
    return;
  }
  CHECK(InputFile(path).size() == kMaxFileBytes);
  std::filesystem::resize_file(path, kMaxFileBytes + 1);
  CHECK_THAT(input_error_of([&] { InputFile{path}; }), ContainsSubstring("more than the limit of 1099511627776"));
}

#include "harness/formats/atomic_file.h"

#include <unistd.h>

#include <string>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"

using namespace qdiff::formats;
using qdiff::testing::input_error_of;
using qdiff::testing::read_file;
using qdiff::testing::TemporaryDirectory;

TEST_CASE("a file appears whole or not at all") {
  const TemporaryDirectory directory;
  const auto path = directory.write("report.json", "old");
  {
    AtomicFile file(path);
    file.append("half of the n");
    CHECK(read_file(path) == "old");
  }
  CHECK(read_file(path) == "old");
  write_file(path, "new");
  CHECK(read_file(path) == "new");
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path())) ++files;
  CHECK(files == 1);
}

TEST_CASE("bytes may come in any order") {
  const TemporaryDirectory directory;
  const std::string tail = "tail", head = "head";
  AtomicFile file(directory / "f");
  file.write_at(4, std::as_bytes(std::span(tail)));
  file.write_at(0, std::as_bytes(std::span(head)));
  file.append(".");
  file.commit();
  CHECK(read_file(directory / "f") == "headtail.");
}

TEST_CASE("R04 links, folders and FIFOs at the destination are refused, and what they point to stays") {
  const TemporaryDirectory directory;
  const auto target = directory.write("target", "precious");
  std::filesystem::create_symlink(target, directory / "link");
  std::filesystem::create_symlink(directory / "nowhere", directory / "dangling");
  std::filesystem::create_directory(directory / "folder");
  CHECK_THAT(input_error_of([&] { write_file(directory / "link", "x"); }), ContainsSubstring("a symbolic link"));
  CHECK_THAT(input_error_of([&] { write_file(directory / "dangling", "x"); }), ContainsSubstring("a symbolic link"));
  CHECK_THAT(input_error_of([&] { write_file(directory / "folder", "x"); }), ContainsSubstring("not a regular file"));
  CHECK(read_file(target) == "precious");
  CHECK_FALSE(std::filesystem::exists(directory / "nowhere"));
}

TEST_CASE("R06 what cannot be written says why") {
  const TemporaryDirectory directory;
  CHECK_THAT(input_error_of([&] { write_file(directory / "none" / "f", "x"); }), ContainsSubstring("No such file"));
  CHECK_THAT(input_error_of([&] { write_file("", "x"); }), ContainsSubstring("cannot be written"));
  CHECK_THAT(input_error_of([&] { write_file(directory.path() / "", "x"); }), ContainsSubstring("cannot be written"));
  CHECK_THAT(input_error_of([&] { write_file(std::string("a\0b", 3), "x"); }), ContainsSubstring("cannot be written"));
  if (::geteuid() != 0) {  // root may write anywhere
    std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_read);
    CHECK_THAT(input_error_of([&] { write_file(directory / "f", "x"); }), ContainsSubstring("Permission denied"));
    std::filesystem::permissions(directory.path(), std::filesystem::perms::owner_all);
  }
}

TEST_CASE("R07 names as long as they may be, and longer") {
  const TemporaryDirectory directory;
  write_file(directory / std::string(255, 'n'), "x");
  CHECK(read_file(directory / std::string(255, 'n')) == "x");
  CHECK_THAT(input_error_of([&] { write_file(directory / std::string(256, 'n'), "x"); }),
             ContainsSubstring("File name too long"));
}

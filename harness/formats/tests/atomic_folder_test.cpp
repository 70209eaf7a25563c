#include "harness/formats/atomic_folder.h"

#include <unistd.h>

#include <fstream>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/tests/temporary_directory.h"

namespace qdiff::formats {
namespace {

namespace fs = std::filesystem;

void put(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }

TEST_CASE("a folder takes the place of an older one as a whole, or not at all") {
  const testing::TemporaryDirectory beside;
  const fs::path path = beside.path() / "folder";
  fs::create_directory(path);
  put(path / "old", "1");
  {
    const AtomicFolder folder(path);
    put(folder.temporary() / "new", "2");
  }
  CHECK(fs::exists(path / "old"));
  {
    AtomicFolder folder(path);
    put(folder.temporary() / "new", "2");
    CHECK(folder.commit());
  }
  CHECK(fs::exists(path / "new"));
  CHECK_FALSE(fs::exists(path / "old"));
  {
    AtomicFolder folder(beside.path() / "another");
    CHECK(folder.commit());
  }
  CHECK(std::distance(fs::directory_iterator(beside.path()), fs::directory_iterator()) == 2);
  CHECK_THROWS_AS(AtomicFolder(fs::path("/proc/folder")), InputError);
}

TEST_CASE("what a killed run left is cleared, what is in use or another's is not") {
  const testing::TemporaryDirectory beside;
  const fs::path& parent = beside.path();
  put(parent / ".qdiff-1-0.tmp", "half a file");
  fs::create_directory(parent / ".qdiff-trace-2-31.tmp");
  put(parent / ".qdiff-trace-2-31.tmp/step-0000.safetensors", "half a trace");
  const AtomicFile file(parent / "file");
  const AtomicFolder folder(parent / "folder");
  for (const char* name : {".qdiff-trace-k3_xq.tmp", ".qdiff-trace-17.tmp", ".qdiff-1-.tmp", "qdiff-1-0.tmp"}) {
    put(parent / name, "of another");
  }
  fs::create_symlink("file", parent / ".qdiff-1-2.tmp");
  clear_abandoned(parent);
  CHECK_FALSE(fs::exists(parent / ".qdiff-1-0.tmp"));
  CHECK_FALSE(fs::exists(parent / ".qdiff-trace-2-31.tmp"));
  CHECK(fs::exists(folder.temporary()));
  // Four of others, the link, and the two in use.
  CHECK(std::distance(fs::directory_iterator(parent), fs::directory_iterator()) == 7);
  clear_abandoned(parent / "nothing");
}

}  // namespace
}  // namespace qdiff::formats

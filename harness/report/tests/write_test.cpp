#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/report/report.h"
#include "harness/report/tests/results.h"

namespace qdiff::report {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "qdiff-report-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::set<std::string> files_under(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) names.insert(fs::relative(entry.path(), folder).string());
  }
  return names;
}

TEST_CASE("a report is these fourteen files and nothing else", "[report]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "a/b";
  write_reports(tests::diverged(), out);
  const std::set<std::string> wanted = {
      "report.json",         "report.html",         "tensors.jsonl",       "junit.xml",           "hypotheses/H01.json",
      "hypotheses/H02.json", "hypotheses/H03.json", "hypotheses/H04.json", "hypotheses/H05.json", "hypotheses/H06.json",
      "hypotheses/H07.json", "hypotheses/H08.json", "hypotheses/H09.json", "hypotheses/H10.json"};
  CHECK(files_under(out) == wanted);
  CHECK(text_of(out / "report.json") == report_json(tests::diverged()));
  CHECK(text_of(out / "junit.xml") == junit_xml(tests::diverged()));
  CHECK(text_of(out / "hypotheses/H05.json") == hypothesis_json(tests::diverged().hypotheses[4]));
}

TEST_CASE("a second run replaces the first one's reports and leaves other files alone", "[report]") {
  const TemporaryFolder folder;
  write_reports(tests::diverged(), folder.path());
  std::ofstream(folder / "notes.txt") << "mine";
  std::ofstream(folder / "hypotheses/H11.json") << "mine too";
  write_reports(tests::match(), folder.path());
  CHECK(text_of(folder / "report.json") == report_json(tests::match()));
  CHECK(text_of(folder / "notes.txt") == "mine");
  CHECK(text_of(folder / "hypotheses/H11.json") == "mine too");
  CHECK(files_under(folder.path()).size() == 16);
}

TEST_CASE("a folder of reports is exchanged in one piece, and what a killed run left is cleared", "[report]") {
  const TemporaryFolder folder;
  const fs::path out = folder / "reports";
  write_reports(tests::diverged(), out);
  const auto inode = [&] {
    struct stat status {};
    REQUIRE(::stat(out.c_str(), &status) == 0);
    return status.st_ino;
  };
  const auto before = inode();
  fs::create_directories(folder / ".qdiff-1-0.tmp/hypotheses");
  std::ofstream(folder / ".qdiff-1-0.tmp/report.json") << "half";
  std::ofstream(out / ".qdiff-1-1.tmp") << "half";
  write_reports(tests::match(), out / "");
  CHECK(text_of(out / "report.json") == report_json(tests::match()));
  CHECK(inode() != before);
  CHECK_FALSE(fs::exists(folder / ".qdiff-1-0.tmp"));
  CHECK(files_under(folder.path()).size() == 14);

  // Beside somebody's file the folder stays, and no old report.json stands beside new files.
  std::ofstream(out / "notes.txt") << "mine";
  const auto kept = inode();
  write_reports(tests::diverged(), out);
  CHECK(inode() == kept);
  CHECK(text_of(out / "report.json") == report_json(tests::diverged()));
}

TEST_CASE("R04 files of others are kept, and then nothing is written", "[report]") {
  for (const std::string name : {"report.json", "junit.xml", "hypotheses/H07.json"}) {
    INFO(name);
    const TemporaryFolder folder;
    fs::create_directories(folder / "hypotheses");
    std::ofstream(folder / name) << "{\"format\": \"something else\"}";
    CHECK_THROWS_AS(write_reports(tests::match(), folder.path()), InputError);
    CHECK_THROWS_WITH(write_reports(tests::match(), folder.path()), ContainsSubstring("not written by qdiff"));
    CHECK(text_of(folder / name) == "{\"format\": \"something else\"}");
    CHECK(files_under(folder.path()) == std::set<std::string>{name});
  }
}

TEST_CASE("R04 links are not followed where reports are written", "[report]") {
  const TemporaryFolder folder;
  const TemporaryFolder elsewhere;
  std::ofstream(elsewhere / "precious.json") << "precious";
  fs::create_symlink(elsewhere / "precious.json", folder / "report.json");
  CHECK_THROWS_AS(write_reports(tests::match(), folder.path()), InputError);
  CHECK(text_of(elsewhere / "precious.json") == "precious");

  const TemporaryFolder second;
  fs::create_directory_symlink(elsewhere.path(), second / "hypotheses");
  CHECK_THROWS_AS(write_reports(tests::match(), second.path()), InputError);
  CHECK(files_under(elsewhere.path()) == std::set<std::string>{"precious.json"});
}

TEST_CASE("a folder that cannot be made is bad input, with its name", "[report]") {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  CHECK_THROWS_AS(write_reports(tests::match(), folder / "file"), InputError);
  CHECK_THROWS_AS(write_reports(tests::match(), folder / "file/below"), InputError);
  CHECK_THROWS_WITH(write_reports(tests::match(), folder / "file"), ContainsSubstring("file"));
  CHECK_THROWS_AS(write_reports(tests::match(), fs::path("/proc/qdiff")), InputError);
}

}  // namespace
}  // namespace qdiff::report

#include "harness/shards/journal.h"

#include <fstream>
#include <sstream>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/shards/gathering.h"

namespace qdiff::shards {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

Plan plan_of(const std::vector<std::string>& names) {
  Plan plan{.program = "qdiff 1", .words = {"qdiff", "run"}, .units = {}};
  for (const std::string& name : names) plan.units.push_back({.name = name, .model = "m", .identity = "of " + name});
  return plan;
}

UnitResult result_of(const std::string& name, const std::string& found, const std::string& inputs = "weights") {
  return {{.unit = name, .identity = "of " + name, .program = "qdiff 1", .inputs = inputs, .seconds = 0.25}, found};
}

// A folder of results, as a shard leaves it.
std::string shard_in(const testing::TemporaryDirectory& folder, const std::string& name, const Plan& plan,
                     const std::vector<UnitResult>& results) {
  const fs::path path = folder.path() / name;
  fs::create_directories(path);
  write_plan(plan, path);
  for (const UnitResult& result : results) Journal(path).write(result);
  return path.string();
}

TEST_CASE("a result is read as it was written, and replaced by a newer one", "[journal]") {
  const testing::TemporaryDirectory folder;
  const Journal journal(folder.path());
  CHECK(journal.units().empty());
  CHECK_FALSE(journal.read("toy/a"));
  journal.write(result_of("toy/a", "{\"x\": 1}"));
  journal.write(result_of("toy/a", "{\"x\": 2}"));
  journal.write(result_of("b", ""));
  const auto read = journal.read("toy/a");
  REQUIRE(read);
  CHECK(read->found == "{\"x\": 2}");
  const Entry wanted = result_of("toy/a", "").entry;
  CHECK(std::tie(read->entry.unit, read->entry.identity, read->entry.program, read->entry.inputs) ==
        std::tie(wanted.unit, wanted.identity, wanted.program, wanted.inputs));
  CHECK(read->entry.seconds == 0.25);
  CHECK(journal.read("b")->found.empty());
  CHECK(journal.units() == std::vector<std::string>{"b", "toy/a"});
  journal.remove({"toy/a"});
  CHECK(journal.units() == std::vector<std::string>{"b"});
}

TEST_CASE("a result of which one byte is missing or another is refused by name", "[journal]") {
  const testing::TemporaryDirectory folder;
  const Journal journal(folder.path());
  journal.write(result_of("toy/a", "{\"x\": 1, \"y\": [1, 2, 3]}"));
  const fs::path file = journal.file_of("toy/a");
  const std::string whole = text_of(file);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    std::ofstream(file, std::ios::binary) << whole.substr(0, size);
    CHECK_THROWS_WITH(journal.read("toy/a"), ContainsSubstring("toy,a.json"));
  }
  for (std::size_t i = whole.find('\n') + 1; i + 1 < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 2;
    std::ofstream(file, std::ios::binary) << changed;
    CHECK_THROWS_WITH(journal.read("toy/a"), ContainsSubstring("is damaged"));
  }
  fs::rename(file, journal.file_of("toy/b"));
  std::ofstream(journal.file_of("toy/b"), std::ios::binary) << whole;
  CHECK_THROWS_WITH(journal.read("toy/b"), ContainsSubstring("another unit, toy/a"));
}

TEST_CASE("what a killed run leaves behind is no result", "[journal]") {
  const testing::TemporaryDirectory folder;
  const Journal journal(folder.path());
  journal.write(result_of("a", "{}"));
  std::ofstream(folder.path() / "units/.qdiff-1-1.tmp") << "{\"format\": \"qdiff-un";
  CHECK(journal.units() == std::vector<std::string>{"a"});
  journal.remove({});
  CHECK_FALSE(fs::exists(folder.path() / "units/.qdiff-1-1.tmp"));
}

TEST_CASE("shards of one plan are gathered in any order", "[gathering]") {
  const testing::TemporaryDirectory folder;
  const Plan plan = plan_of({"a", "b", "c"});
  const std::string one = shard_in(folder, "1", plan, {result_of("c", "C"), result_of("a", "A")});
  const std::string two = shard_in(folder, "2", plan, {result_of("b", "B")});
  for (const auto& folders : {std::vector{one, two}, std::vector{two, one}}) {
    const Gathered gathered = gather(folders, {});
    CHECK_FALSE(gathered.gaps.any());
    REQUIRE(gathered.folders.size() == 3);
    CHECK((*gathered.folders[0] == one && *gathered.folders[1] == two && *gathered.folders[2] == one));
  }
}

TEST_CASE("missing, duplicate and contradicting units are named", "[gathering]") {
  const testing::TemporaryDirectory folder;
  const Plan plan = plan_of({"a", "b", "c", "d"});
  const std::string one = shard_in(folder, "1", plan, {result_of("a", "A"), result_of("b", "B"), result_of("c", "C")});
  const std::string two = shard_in(folder, "2", plan, {result_of("b", "B"), result_of("c", "other")});
  const Gaps gaps = gather({one, two}, {}).gaps;
  CHECK(gaps.missing == std::vector<std::string>{"d"});
  CHECK(gaps.duplicate == std::vector<std::string>{"b"});
  CHECK(gaps.contradicting == std::vector<std::string>{"c"});
  CHECK(
      to_sentence(gaps, 4) ==
      "1 of 4 units has no result: d; 1 unit has the same result in two folders: b; 1 unit has results that contradict "
      "each other, or are of two versions of a model: c");
  // Said to be a rerun, a result stands in the place of the other.
  const Gathered again = gather({one}, {two});
  CHECK(again.gaps.contradicting.empty());
  CHECK(again.gaps.duplicate.empty());
  CHECK(*again.folders[2] == two);
  CHECK(*again.folders[0] == one);
}

TEST_CASE("a folder in which no shard has begun is named", "[gathering]") {
  const testing::TemporaryDirectory folder;
  const Plan plan = plan_of({"a", "b"});
  const std::string one = shard_in(folder, "1", plan, {result_of("a", "A")});
  const std::string lost = (folder.path() / "lost").string();
  const Gathered gathered = gather({lost, one}, {});
  CHECK(gathered.gaps.empty == std::vector<std::string>{lost});
  CHECK(gathered.gaps.missing == std::vector<std::string>{"b"});
  CHECK(to_sentence(gathered.gaps, 2) ==
        "no shard has begun in this folder: " + lost + "; 1 of 2 units has no result: b");
}

TEST_CASE("two versions of a model's weights contradict each other", "[gathering]") {
  const testing::TemporaryDirectory folder;
  const Plan plan = plan_of({"a", "b"});
  const std::string one = shard_in(folder, "1", plan, {result_of("a", "A", "old")});
  const std::string two = shard_in(folder, "2", plan, {result_of("b", "B", "new")});
  CHECK(gather({one, two}, {}).gaps.contradicting == std::vector<std::string>{"a", "b"});
}

TEST_CASE("foreign folders and results are refused by name", "[gathering]") {
  const testing::TemporaryDirectory folder;
  const Plan plan = plan_of({"a", "b"});
  const std::string one = shard_in(folder, "1", plan, {result_of("a", "A")});
  const std::string other = shard_in(folder, "other", plan_of({"a"}), {});
  CHECK_THROWS_WITH(gather({one, other}, {}), ContainsSubstring(other) && ContainsSubstring("another one"));
  CHECK_THROWS_WITH(gather({folder.path().string()}, {}), ContainsSubstring("plan.json"));
  CHECK_THROWS_WITH(gather({one, other, folder.path().string()}, {}), ContainsSubstring("another one"));

  const std::string unknown = shard_in(folder, "unknown", plan, {result_of("x", "X")});
  CHECK_THROWS_WITH(gather({unknown}, {}), ContainsSubstring("x.json") && ContainsSubstring("does not have"));
  UnitResult foreign = result_of("b", "B");
  foreign.entry.identity = "another case";
  CHECK_THROWS_WITH(gather({shard_in(folder, "case", plan, {foreign})}, {}),
                    ContainsSubstring("b.json") && ContainsSubstring("another case, model or set of options"));
  foreign = result_of("b", "B");
  foreign.entry.program = "qdiff 2";
  CHECK_THROWS_WITH(gather({shard_in(folder, "version", plan, {foreign})}, {}),
                    ContainsSubstring("b.json") && ContainsSubstring("made by qdiff 2"));
}

}  // namespace
}  // namespace qdiff::shards

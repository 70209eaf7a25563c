#include "harness/shards/plan.h"

#include <algorithm>
#include <fstream>
#include <numeric>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/splitmix64.h"
#include "harness/formats/tests/temporary_directory.h"

namespace qdiff::shards {
namespace {

std::vector<Cost> costs_of(const std::vector<double>& seconds) {
  std::vector<Cost> costs;
  for (const double value : seconds) costs.push_back({value, 0.0});
  return costs;
}

Plan small_plan() {
  return {.program = "qdiff 1",
          .words = {"qdiff", "run", "--suite", "a b.json"},
          .units = {{.name = "toy/H05-gqa", .model = "m \"1\"", .identity = "12"}, {.name = "toy/other"}}};
}

TEST_CASE("shards hold each unit once, whatever their number", "[plan]") {
  SplitMix64 random(1);
  std::vector<double> seconds(200);
  for (double& value : seconds) value = 100.0 * random.uniform();
  const std::vector<Cost> costs = costs_of(seconds);
  for (const std::size_t count : {1U, 2U, 7U, 199U, 200U, 300U}) {
    std::vector<std::size_t> all;
    for (std::size_t s = 0; s < count; ++s) {
      const std::vector<std::size_t> mine = units_of_shard(costs, {s, count});
      CHECK(std::ranges::is_sorted(mine));
      all.insert(all.end(), mine.begin(), mine.end());
    }
    std::ranges::sort(all);
    std::vector<std::size_t> wanted(seconds.size());
    std::iota(wanted.begin(), wanted.end(), std::size_t{0});
    CHECK(all == wanted);
  }
}

TEST_CASE("shards are equally long, as far as the longest unit lets them", "[plan]") {
  SplitMix64 random(2);
  std::vector<double> seconds(500);
  for (double& value : seconds) value = 1.0 + 60.0 * random.uniform();
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  for (const std::size_t count : {2U, 8U, 50U}) {
    for (std::size_t s = 0; s < count; ++s) {
      double mine = 0.0;
      for (const std::size_t i : units_of_shard(costs_of(seconds), {s, count})) mine += seconds[i];
      INFO(s << " of " << count);
      CHECK(mine < 1.1 * sum / static_cast<double>(count));
      CHECK(mine > 0.9 * sum / static_cast<double>(count));
    }
  }
  // The long one is alone.
  CHECK(units_of_shard(costs_of({1, 1, 10, 1, 1}), {0, 2}) == std::vector<std::size_t>{2});
  // What costs nothing is spread too.
  CHECK(units_of_shard(costs_of({0, 0, 0, 0}), {1, 2}).size() == 2);
}

TEST_CASE("a plan is read as it was written", "[plan]") {
  const testing::TemporaryDirectory folder;
  write_plan(small_plan(), folder.path());
  const Plan read = read_plan(folder.path());
  CHECK(to_json(read) == to_json(small_plan()));
  CHECK(read.units[0].model == "m \"1\"");
  CHECK(read.words == small_plan().words);
  CHECK(read_plan_text(folder.path()) == to_json(read));
}

TEST_CASE("what is no plan is refused", "[plan]") {
  const testing::TemporaryDirectory folder;
  CHECK_THROWS_WITH(read_plan(folder.path()), ContainsSubstring("there is no plan.json in it"));
  CHECK_THROWS_WITH(read_plan(folder.path() / "none"), ContainsSubstring("none: there is no such folder"));
  for (const char* text :
       {"", "[]", "{}", R"({"format": "qdiff-plan", "version": 2})", R"({"format": "qdiff-plan", "version": 1})"}) {
    std::ofstream(folder.path() / "plan.json") << text;
    CHECK_THROWS_AS(read_plan(folder.path()), InputError);
  }
  std::ofstream(folder.path() / "plan.json") << "{\"version\": 1}";
  CHECK_THROWS_WITH(read_plan(folder.path()),
                    ContainsSubstring("\"format\" is missing; it must be \"qdiff-plan\"; name"));
  Plan twice = small_plan();
  twice.units[1].name = twice.units[0].name;
  write_plan(twice, folder.path());
  CHECK_THROWS_WITH(read_plan(folder.path()), ContainsSubstring("two units toy/H05-gqa"));
}

TEST_CASE("durations are read as they were written", "[plan]") {
  const testing::TemporaryDirectory folder;
  const Durations durations = {{"a/b", 1.5}, {"c \"d\"", 0.0012}};
  std::ofstream(folder.path() / "durations.json") << to_json(durations);
  CHECK(read_durations(folder.path() / "durations.json") == durations);
  std::ofstream(folder.path() / "durations.json")
      << R"({"format": "qdiff-durations", "version": 1, "seconds": {"a": -1}})";
  CHECK_THROWS_WITH(read_durations(folder.path() / "durations.json"), ContainsSubstring("\"a\" is -1"));
  std::ofstream(folder.path() / "durations.json") << "{}";
  CHECK_THROWS_WITH(read_durations(folder.path() / "durations.json"),
                    ContainsSubstring("\"format\" is missing; it must be \"qdiff-durations\"; name"));
}

}  // namespace
}  // namespace qdiff::shards

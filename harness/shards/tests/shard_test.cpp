#include "harness/shards/shard.h"

#include <filesystem>
#include <map>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/formats/tests/temporary_directory.h"

namespace qdiff::shards {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<Shard> shard_in(const Variables& variables) {
  return shard_of_environment([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string text_in(const Variables& variables) {
  const auto shard = shard_in(variables);
  return shard ? to_string(*shard) + " " + shard->source : "none";
}

TEST_CASE("a shard is I/N, counted from 1", "[shard]") {
  CHECK(parse_shard("--shard", "3/8").index == 2);
  CHECK(parse_shard("--shard", "3/8").count == 8);
  CHECK(parse_shard("--shard", "1/1").is_whole());
  CHECK(to_string(parse_shard("--shard", "8/8")) == "8/8");
  for (const char* text : {"", "/", "3", "3/", "/8", "0/8", "9/8", "-1/8", "1/0", "a/8", "1/b", "1.5/8", "1/8/2",
                           " 1/8", "1/99999999999999999999", "+1/8"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_shard("--shard", text), InputError);
  }
  CHECK_THROWS_WITH(parse_shard("--shard", "0/8"), ContainsSubstring("--shard '0/8'") && ContainsSubstring("3/8"));
}

TEST_CASE("schedulers say which shard this is", "[shard]") {
  CHECK(text_in({}) == "none");
  CHECK(text_in({{"CI_NODE_INDEX", "3"}, {"CI_NODE_TOTAL", "8"}}) == "3/8 CI_NODE_INDEX");
  CHECK(text_in({{"JOB_COMPLETION_INDEX", "0"}, {"QDIFF_SHARDS", "8"}}) == "1/8 JOB_COMPLETION_INDEX");
  CHECK(text_in({{"BUILDKITE_PARALLEL_JOB", "7"}, {"BUILDKITE_PARALLEL_JOB_COUNT", "8"}}) ==
        "8/8 BUILDKITE_PARALLEL_JOB");
  CHECK(text_in({{"TEST_SHARD_INDEX", "1"}, {"TEST_TOTAL_SHARDS", "2"}}) == "2/2 TEST_SHARD_INDEX");
  // GitLab says how many there are of every job.
  CHECK(text_in({{"CI_NODE_TOTAL", "1"}}) == "none");
  CHECK(text_in({{"CI_NODE_INDEX", "1"}, {"CI_NODE_TOTAL", "1"}}) == "none");
}

TEST_CASE("a Slurm array may begin at 0 or 1 and go in steps", "[shard]") {
  const auto slurm = [](const char* id, const char* count, const char* first, const char* last, const char* step) {
    return Variables{{"SLURM_ARRAY_TASK_ID", id},
                     {"SLURM_ARRAY_TASK_COUNT", count},
                     {"SLURM_ARRAY_TASK_MIN", first},
                     {"SLURM_ARRAY_TASK_MAX", last},
                     {"SLURM_ARRAY_TASK_STEP", step}};
  };
  CHECK(text_in(slurm("0", "8", "0", "7", "1")) == "1/8 SLURM_ARRAY_TASK_ID");
  CHECK(text_in(slurm("8", "8", "1", "8", "1")) == "8/8 SLURM_ARRAY_TASK_ID");
  CHECK(text_in(slurm("4", "3", "0", "4", "2")) == "3/3 SLURM_ARRAY_TASK_ID");
  // Lost tasks that are run anew are an array of their own, which is another plan's.
  for (const auto& part : {slurm("3", "1", "3", "3", "1"), slurm("5", "2", "3", "5", "1"),
                           slurm("5", "2", "0", "5", "1"), slurm("3", "2", "0", "5", "5")}) {
    CHECK_THROWS_WITH(text_in(part), ContainsSubstring("no whole one") && ContainsSubstring("--shard I/N"));
  }
}

TEST_CASE("half an answer of a scheduler is an error", "[shard]") {
  CHECK_THROWS_WITH(text_in({{"JOB_COMPLETION_INDEX", "0"}}),
                    ContainsSubstring("JOB_COMPLETION_INDEX is set, but QDIFF_SHARDS is not"));
  CHECK_THROWS_WITH(text_in({{"CI_NODE_INDEX", "x"}, {"CI_NODE_TOTAL", "8"}}),
                    ContainsSubstring("CI_NODE_INDEX is 'x'"));
  CHECK_THROWS_WITH(text_in({{"CI_NODE_INDEX", "0"}, {"CI_NODE_TOTAL", "8"}}), ContainsSubstring("which is no shard"));
  CHECK_THROWS_WITH(text_in({{"TEST_SHARD_INDEX", "8"}, {"TEST_TOTAL_SHARDS", "8"}}),
                    ContainsSubstring("which is no shard"));
}

TEST_CASE("Bazel is told that its shards are honoured", "[shard]") {
  const testing::TemporaryDirectory folder;
  const std::filesystem::path file = folder.path() / "status";
  shard_in({{"TEST_SHARD_INDEX", "0"}, {"TEST_TOTAL_SHARDS", "2"}, {"TEST_SHARD_STATUS_FILE", file.string()}});
  CHECK(std::filesystem::exists(file));
}

}  // namespace
}  // namespace qdiff::shards

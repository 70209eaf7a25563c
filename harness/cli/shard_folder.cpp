#include "harness/cli/shard_folder.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/suggest.h"
#include "harness/report/report_file.h"
#include "harness/shards/gathering.h"

namespace qdiff::cli {

namespace fs = std::filesystem;

std::optional<shards::Shard> shard_asked(const std::optional<shards::Shard>& given) {
  if (given) return given;
  return shards::shard_of_environment([](const char* name) { return std::getenv(name); });
}

ShardFolder::ShardFolder(const shards::Plan& plan, std::vector<std::size_t> mine, const shards::Shard& shard,
                         const std::string& out, bool resume, bool quiet)
    : plan_(plan), mine_(std::move(mine)), journal_(out) {
  const std::string sentence = "shard " + to_string(shard) + ", from " + shard.source + ": " +
                               std::to_string(mine_.size()) + " of " + std::to_string(plan.units.size()) + " units";
  report::make_folder(out);
  report::check_own_file(fs::path(out) / "plan.json", shards::kPlanMark);
  if (resume) {
    refuse_others();
    journal_.remove({});
  } else {
    journal_.remove(journal_.units());
  }
  shards::write_plan(plan, out);
  if (mine_.empty()) throw CannotJudgeError(sentence + "; take fewer shards");
  if (!shard.is_whole() && !quiet) std::fprintf(stderr, "qdiff: %s\n", sentence.c_str());
}

void ShardFolder::refuse_others() const {
  std::set<std::string> wanted;
  for (const std::size_t i : mine_) wanted.insert(plan_.units[i].name);
  for (const std::string& name : journal_.units()) {
    if (wanted.contains(name)) continue;
    throw InputError(formats::printable(journal_.file_of(name).string(), 400) +
                     ": is the result of a unit that this shard does not have; remove it, or leave --resume out");
  }
}

std::optional<shards::UnitResult> ShardFolder::find(std::size_t i) const {
  const shards::Unit& unit = plan_.units[i];
  auto result = journal_.read(unit.name);
  if (result) shards::check_is_of(*result, unit, plan_, journal_.file_of(unit.name));
  return result;
}

bool ShardFolder::has(std::size_t i) const { return fs::exists(journal_.file_of(plan_.units[i].name)); }

std::string ShardFolder::file_of(std::size_t i) const {
  return formats::printable(journal_.file_of(plan_.units[i].name).string(), 400);
}

void write_durations(const shards::Durations& durations, const std::string& out) {
  const fs::path file = fs::path(out) / "durations.json";
  report::write_report_file({file, shards::to_json(durations), "\"qdiff-durations\""});
}

}  // namespace qdiff::cli

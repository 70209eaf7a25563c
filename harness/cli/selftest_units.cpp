#include "harness/cli/selftest_units.h"

#include <map>
#include <string_view>
#include <utility>

#include "harness/cli/shard_folder.h"
#include "harness/cli/unit_plan.h"
#include "harness/formats/content_hash.h"
#include "harness/shards/journal.h"

namespace qdiff::cli {
namespace {

using selftest::Ledger;
using shards::Plan;

// Lists the units, and gives none of them to this machine.
class Listing final : public Ledger {
 public:
  bool wants(const std::string& unit) override {
    units.push_back(unit);
    return false;
  }
  std::optional<std::string> find(const std::string& /*unit*/) override { return std::nullopt; }
  void keep(const std::string& /*unit*/, const std::string& /*made*/, double /*seconds*/) override {}

  std::vector<std::string> units;
};

// The units of a shard, in its folder.
class Shard final : public Ledger {
 public:
  Shard(const Plan& plan, const std::vector<std::size_t>& mine, const ShardFolder& folder)
      : plan_(plan), folder_(folder) {
    for (const std::size_t i : mine) mine_.emplace(plan.units[i].name, i);
  }
  bool wants(const std::string& unit) override { return mine_.contains(unit); }
  std::optional<std::string> find(const std::string& unit) override {
    auto result = folder_.find(mine_.at(unit));
    if (!result) return std::nullopt;
    seconds_ += result->entry.seconds;
    durations[unit] = result->entry.seconds;
    return std::move(result->found);
  }
  void keep(const std::string& unit, const std::string& made, double seconds) override {
    const shards::Unit& of = plan_.units[mine_.at(unit)];
    folder_.keep(
        {{.unit = unit, .identity = of.identity, .program = plan_.program, .inputs = "", .seconds = seconds}, made});
    seconds_ += seconds;
    durations[unit] = seconds;
  }
  double seconds() const { return seconds_; }

  shards::Durations durations;

 private:
  const Plan& plan_;
  const ShardFolder& folder_;
  std::map<std::string, std::size_t> mine_;
  double seconds_ = 0.0;
};

// All units, from the folders of many machines.
class Whole final : public Ledger {
 public:
  explicit Whole(const shards::Gathered& gathered) {
    for (std::size_t i = 0; i < gathered.plan.units.size(); ++i) {
      folders_.emplace(gathered.plan.units[i].name, *gathered.folders[i]);
    }
  }
  bool wants(const std::string& /*unit*/) override { return true; }
  std::optional<std::string> find(const std::string& unit) override {
    const auto folder = folders_.find(unit);
    if (folder == folders_.end()) throw InputError("the plan has no unit " + unit + "; was it made by this version?");
    shards::UnitResult result = *shards::Journal(folder->second).read(unit);
    durations[unit] = result.entry.seconds;
    seconds += result.entry.seconds;
    return std::move(result.found);
  }
  void keep(const std::string& /*unit*/, const std::string& /*made*/, double /*seconds*/) override {}

  shards::Durations durations;
  double seconds = 0.0;

 private:
  std::map<std::string, std::filesystem::path> folders_;
};

// By the first part of a unit's name, on one core of this project's CI: what a fault, an honest run and so on take.
double seconds_of_unit(std::string_view unit) {
  struct Kind {
    std::string_view start;
    double seconds;
  };
  constexpr Kind kKinds[] = {{"doses/", 30.0}, {"plant/", 2.0},   {"pairs/", 3.0},
                             {"novel/", 2.0},  {"spoiled/", 0.5}, {"honest/", 0.3}};
  for (const Kind& kind : kKinds) {
    if (unit.starts_with(kind.start)) return kind.seconds;
  }
  return 1.0;
}

Plan plan_of(const SelftestArguments& arguments, const std::vector<std::string>& units) {
  Plan plan{.program = program_name(), .words = words_of_units(arguments), .units = {}};
  formats::ContentHash options;
  for (const std::string& word : plan.words) options.add(word);
  for (const std::string& unit : units) {
    formats::ContentHash identity = options;
    plan.units.push_back({.name = unit, .identity = identity.add(unit).text()});
  }
  return plan;
}

}  // namespace

ExitStatus run_selftest_by_units(const SelftestArguments& arguments, const shards::Shard& shard) {
  Listing listing;
  SelftestArguments quietly = arguments;
  quietly.common.quiet = true;
  run_selftest(quietly, &listing);
  const Plan plan = plan_of(arguments, listing.units);
  if (plan.units.empty()) {
    throw InputError("--only " + arguments.only +
                     ": no fault has an id that begins so; ids begin with H01 to H10 or X");
  }
  std::vector<shards::Cost> costs;
  for (const std::string& unit : listing.units) costs.push_back({seconds_of_unit(unit), 0.0});
  const std::vector<std::size_t> mine = units_of_shard(costs, shard);
  const ShardFolder folder(plan, mine, shard, arguments.out, arguments.resume, arguments.common.quiet);
  Shard ledger(plan, mine, folder);
  selftest::Result result = run_selftest(arguments, &ledger);
  write_durations(ledger.durations, arguments.out);
  if (!shard.is_whole()) return ExitStatus::kMatch;  // scores are of all units together
  result.command = read_words(plan.words).command;
  result.seconds = ledger.seconds();
  return deliver_selftest(result, arguments);
}

ExitStatus merge_selftest(const shards::Gathered& gathered, const MergeArguments& merge) {
  const CommandLine whole = read_words(gathered.plan.words);
  auto arguments = std::get<SelftestArguments>(whole.arguments);
  arguments.common = merge.common;
  arguments.out = merge.out;
  Whole ledger(gathered);
  selftest::Result result = run_selftest(arguments, &ledger);
  write_durations(ledger.durations, arguments.out);
  result.command = whole.command;
  result.seconds = ledger.seconds;
  return deliver_selftest(result, arguments);
}

}  // namespace qdiff::cli

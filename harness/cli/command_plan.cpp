#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "harness/cli/commands.h"
#include "harness/cli/text.h"
#include "harness/cli/unit_plan.h"
#include "harness/contract/number_text.h"
#include "harness/formats/duration.h"

namespace qdiff::cli {
namespace {

std::string json_of(const PlannedRun& run, const std::vector<std::size_t>& units) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const std::size_t i : units) {
    const shards::Unit& unit = run.plan.units[i];
    list.push_back({{"name", unit.name},
                    {"model", unit.model},
                    {"dtype", unit.dtype},
                    {"backend", unit.backend},
                    {"case", unit.test_case},
                    {"mode", unit.mode},
                    {"layers", unit.layers},
                    {"identity", unit.identity},
                    {"seconds", to_digits(run.costs[i].seconds, 4)},
                    {"bytes", to_digits(run.costs[i].bytes, 4)}});
  }
  return list.dump(2, ' ', true, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

std::string table_of(const PlannedRun& run, const std::vector<std::size_t>& units) {
  std::size_t width = 0;
  for (const std::size_t i : units) width = std::max(width, run.plan.units[i].name.size());
  std::string text;
  double seconds = 0.0, bytes = 0.0;
  const auto size = [](double count) { return bytes_text(static_cast<std::uint64_t>(std::min(count, 0x1p63))); };
  for (const std::size_t i : units) {
    const std::string& name = run.plan.units[i].name;
    text += name + std::string(width + 2 - name.size(), ' ') + formats::duration_text(run.costs[i].seconds) + "  " +
            size(run.costs[i].bytes) + '\n';
    seconds += run.costs[i].seconds;
    bytes = std::max(bytes, run.costs[i].bytes);
  }
  return text + std::to_string(units.size()) + (units.size() == 1 ? " unit" : " units") + ", about " +
         formats::duration_text(seconds) + " on one machine, up to " + size(bytes) + " of memory\n";
}

}  // namespace

ExitStatus plan_command(const PlanArguments& arguments) {
  const RunArguments& wanted = arguments.run;
  const PlannedRun run =
      plan_units(wanted, wanted.durations ? shards::read_durations(*wanted.durations) : shards::Durations());
  const std::vector<std::size_t> units = shards::units_of_shard(run.costs, wanted.shard.value_or(shards::Shard{}));
  const std::string text = arguments.json ? json_of(run, units) : table_of(run, units);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli

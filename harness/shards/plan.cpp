#include "harness/shards/plan.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <set>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/input_file.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"
#include "harness/report/json.h"

namespace qdiff::shards {
namespace {

using formats::Json;

// A million units of 11 values each.
constexpr formats::JsonLimits kPlanLimits = {std::size_t{1} << 30, 8, 20'000'000, std::size_t{64} << 10};

struct Field {
  const char* name;
  std::string Unit::*member;
};
constexpr Field kFields[] = {{"name", &Unit::name},        {"model", &Unit::model},
                             {"dtype", &Unit::dtype},      {"backend", &Unit::backend},
                             {"case", &Unit::test_case},   {"mode", &Unit::mode},
                             {"layers", &Unit::layers},    {"kept_layers", &Unit::kept_layers},
                             {"identity", &Unit::identity}};

}  // namespace

void check_names(const Plan& plan) {
  std::set<std::string_view> seen;
  for (const Unit& unit : plan.units) {
    if (seen.insert(unit.name).second) continue;
    throw InputError("the plan has two units " + formats::printable(unit.name) +
                     "; name each model and each case once, with ids of their own");
  }
}

std::string to_json(const Plan& plan) {
  std::string text = "{\"format\": \"qdiff-plan\", \"version\": 1, \"program\": " + report::scalar_text(plan.program) +
                     ", \"words\": [" + joined(plan.words, ", ", report::scalar_text) + "],\n \"units\": [";
  bool first = true;
  for (const Unit& unit : plan.units) {
    text += first ? "\n  {" : ",\n  {";
    first = false;
    for (const Field& field : kFields) {
      text += (text.back() == '{' ? "" : ", ") + report::scalar_text(field.name) + ": " +
              report::scalar_text(unit.*field.member);
    }
    text += '}';
  }
  return text + "\n ]}\n";
}

void write_plan(const Plan& plan, const std::filesystem::path& folder) {
  formats::write_file(folder / "plan.json", to_json(plan));
}

bool has_plan(const std::filesystem::path& folder) { return formats::path_exists(folder / "plan.json"); }

std::string read_plan_text(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "plan.json";
  if (!formats::path_exists(folder))
    throw InputError(formats::printable(folder.string()) + ": there is no such folder");
  if (!has_plan(folder)) {
    throw InputError(formats::printable(folder.string()) +
                     ": there is no plan.json in it; name the folder that a run by units was given with --out");
  }
  return formats::read_text_file(file, kPlanLimits.bytes);
}

Plan read_plan(const std::filesystem::path& folder) {
  const std::string source = formats::printable((folder / "plan.json").string());
  const Json document = formats::parse_json(read_plan_text(folder), source, kPlanLimits);
  formats::require_format(document, "qdiff-plan", 1, "name the folder that a run by units was given with --out",
                          source);
  Plan plan{.program = formats::require_string(document, "program", source), .words = {}, .units = {}};
  for (const Json& word : formats::require_array(document, "words", source)) {
    if (!word.is_string()) throw InputError(source + ": \"words\" has " + formats::show(word) + ", which is no text");
    plan.words.push_back(word.get<std::string>());
  }
  const Json& units = formats::require_array(document, "units", source);
  for (std::size_t i = 0; i < units.size(); ++i) {
    Unit& unit = plan.units.emplace_back();
    for (const Field& field : kFields) {
      unit.*field.member = formats::require_string(units[i], field.name, source + ": units[" + std::to_string(i) + ']');
    }
  }
  check_names(plan);
  return plan;
}

std::vector<std::size_t> units_of_shard(const std::vector<Cost>& costs, const Shard& shard) {
  std::vector<std::size_t> order(costs.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  // Whole milliseconds, so that no sum depends on the order in which it was made; at least one, so that units that
  // cost nothing are spread too.
  const auto milliseconds = [&](std::size_t i) {
    return std::max<std::int64_t>(1, std::llround(std::min(costs[i].seconds, kMostSeconds) * 1000.0));
  };
  std::ranges::stable_sort(order, std::ranges::greater(), milliseconds);
  using Load = std::pair<std::int64_t, std::size_t>;  // of a shard
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (std::size_t s = 0; s < shard.count; ++s) loads.emplace(0, s);
  std::vector<std::size_t> mine;
  for (const std::size_t i : order) {
    const auto [load, s] = loads.top();
    loads.pop();
    loads.emplace(load + milliseconds(i), s);
    if (s == shard.index) mine.push_back(i);
  }
  std::ranges::sort(mine);
  return mine;
}

std::string to_json(const Durations& durations) {
  std::string text = "{\"format\": \"qdiff-durations\", \"version\": 1, \"seconds\": {";
  bool first = true;
  for (const auto& [name, seconds] : durations) {
    text += (first ? "\n  " : ",\n  ") + report::scalar_text(name) + ": " + digits(seconds, 4);
    first = false;
  }
  return text + "\n}}\n";
}

Durations read_durations(const std::filesystem::path& file) {
  const std::string source = formats::printable(file.string());
  const Json document = formats::read_json_file(file, kPlanLimits);
  formats::require_format(document, "qdiff-durations", 1, "name the durations.json that an earlier run by units wrote",
                          source);
  Durations durations;
  const Json& seconds = formats::require_object(document, "seconds", source);
  for (const auto& [name, value] : seconds.items()) {
    durations[name] = formats::require_number(seconds, name, 0.0, kMostSeconds, source + ": seconds");
  }
  return durations;
}

}  // namespace qdiff::shards

#include "harness/shards/gathering.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/suggest.h"

namespace qdiff::shards {
namespace {

namespace fs = std::filesystem;

std::string names(const std::vector<std::string>& units) {
  constexpr std::size_t kMost = 20;
  std::string text;
  for (std::size_t i = 0; i < std::min(kMost, units.size()); ++i) text += (i == 0 ? "" : ", ") + units[i];
  if (units.size() > kMost) text += " and " + std::to_string(units.size() - kMost) + " more";
  return text;
}

std::string have(std::size_t count, const std::string& what) {
  return std::to_string(count) + (count == 1 ? " unit has " : " units have ") + what;
}

class Gatherer {
 public:
  explicit Gatherer(const std::string& first) : first_(first) {
    gathered_.plan = read_plan(first);
    plan_text_ = to_json(gathered_.plan);
    for (const Unit& unit : gathered_.plan.units) units_.emplace(unit.name, places_.size()), places_.emplace_back();
    gathered_.folders.resize(places_.size());
  }

  void add(const std::string& folder, bool replaces) {
    if (!has_plan(folder)) return gathered_.gaps.empty.push_back(folder);
    if (read_plan_text(folder) != plan_text_) {
      throw InputError(formats::printable(folder) + ": its plan is another one than that of " +
                       formats::printable(first_) + ": results of different runs, versions or inputs are not joined");
    }
    const Journal journal(folder);
    for (const std::string& name : journal.units()) {
      const auto found = units_.find(name);
      if (found == units_.end()) {
        throw InputError(formats::printable(journal.file_of(name).string(), 400) +
                         ": is the result of a unit that the plan does not have; remove it");
      }
      take(found->second, folder, journal, replaces);
    }
  }

  Gathered finish() {
    std::map<std::pair<std::string, std::string>, std::set<std::string>> inputs;  // of each model and its layers
    const auto model_of = [](const Unit& unit) { return std::pair(unit.model, unit.kept_layers); };
    for (std::size_t i = 0; i < places_.size(); ++i) {
      if (places_[i]) inputs[model_of(gathered_.plan.units[i])].insert(places_[i]->inputs);
    }
    Gaps& gaps = gathered_.gaps;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const Unit& unit = gathered_.plan.units[i];
      if (!places_[i]) gaps.missing.push_back(unit.name);
      if (places_[i] && inputs[model_of(unit)].size() > 1) contradicting_.insert(i);
    }
    for (const std::size_t i : duplicate_) gaps.duplicate.push_back(gathered_.plan.units[i].name);
    for (const std::size_t i : contradicting_) gaps.contradicting.push_back(gathered_.plan.units[i].name);
    return std::move(gathered_);
  }

 private:
  void take(std::size_t i, const std::string& folder, const Journal& journal, bool replaces) {
    const Unit& unit = gathered_.plan.units[i];
    const UnitResult result = *journal.read(unit.name);
    check_is_of(result, unit, gathered_.plan, journal.file_of(unit.name));
    if (places_[i] && !replaces) {
      const bool same = places_[i]->inputs == result.entry.inputs && places_[i]->content == result.entry.content;
      (same ? duplicate_ : contradicting_).insert(i);
      return;
    }
    if (replaces) {
      duplicate_.erase(i);
      contradicting_.erase(i);
    }
    places_[i] = result.entry;
    gathered_.folders[i] = folder;
  }

  std::string first_, plan_text_;
  Gathered gathered_;
  std::map<std::string, std::size_t> units_;  // by name
  std::vector<std::optional<Entry>> places_;  // by unit
  std::set<std::size_t> duplicate_, contradicting_;
};

}  // namespace

std::string to_sentence(const Gaps& gaps, std::size_t num_units) {
  std::string text;
  const auto add = [&](const std::vector<std::string>& units, const std::string& what) {
    if (!units.empty()) text += (text.empty() ? "" : "; ") + what + ": " + names(units);
  };
  add(gaps.empty, gaps.empty.size() == 1 ? "no shard has begun in this folder" : "no shard has begun in these folders");
  const std::size_t missing = gaps.missing.size();
  add(gaps.missing, std::to_string(missing) + " of " + std::to_string(num_units) +
                        (missing == 1 ? " units has no result" : " units have no result"));
  add(gaps.duplicate, have(gaps.duplicate.size(), "the same result in two folders"));
  add(gaps.contradicting,
      have(gaps.contradicting.size(), "results that contradict each other, or are of two versions of a model"));
  return text;
}

void check_is_of(const UnitResult& result, const Unit& unit, const Plan& plan, const fs::path& file) {
  const std::string source = formats::printable(file.string(), 400);
  constexpr const char* kDo = "; remove it, and the unit is run again";
  if (result.entry.program != plan.program) {
    throw InputError(source + ": was made by " + formats::printable(result.entry.program) + ", and this is " +
                     plan.program + kDo);
  }
  if (result.entry.identity != unit.identity) {
    throw InputError(source + ": was made of another case, model or set of options than unit " + unit.name +
                     " has now" + kDo);
  }
}

Gathered gather(const std::vector<std::string>& folders, const std::vector<std::string>& rerun) {
  const auto first = std::ranges::find_if(folders, has_plan);
  Gatherer gatherer(first == folders.end() ? folders.front() : *first);
  for (const std::string& folder : folders) gatherer.add(folder, false);
  for (const std::string& folder : rerun) gatherer.add(folder, true);
  return gatherer.finish();
}

}  // namespace qdiff::shards

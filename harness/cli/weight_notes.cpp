#include "harness/cli/weight_notes.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "harness/contract/number_text.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/wording.h"
#include "harness/formats/suggest.h"
#include "harness/report/sentences.h"

namespace qdiff::cli {
namespace {

// Of one weight in some layers.
struct Group {
  std::string weight, how;
  std::vector<int> layers;
  double nearest = HUGE_VAL, farthest = 0.0;  // of their distances
  bool has_distance = false;
};

std::string words(const Group& group) {
  std::string text = group.weight;
  if (!group.layers.empty()) {
    text += std::string(" in layer") + (group.layers.size() == 1 ? " " : "s ") + report::ranges(group.layers);
  }
  text += ": " + group.how;
  if (!group.has_distance || !std::isfinite(group.farthest)) return text;
  const auto percent = [](double share) {
    return digits(share < 1.0 ? 100.0 * share : std::round(100.0 * share), share < 1.0 ? 2 : 12);
  };
  const std::string low = percent(group.nearest), high = percent(group.farthest);
  return text + ", " + (low == high ? high : low + " to " + high) + " % apart";
}

}  // namespace

std::vector<std::string> weight_notes(const diagnose::WeightComparison& comparison, const ModelConfig& config) {
  std::map<std::string, int> layer_of;
  for (const ModelWeight& weight : weights_of(config)) layer_of.emplace(weight.name, weight.id.layer);
  std::vector<Group> groups;
  for (const diagnose::WeightDifference& difference : comparison.different) {
    const int layer = layer_of.at(difference.name);
    const std::string prefix = layer == kNoLayer ? "" : "model.layers." + std::to_string(layer) + '.';
    const std::string weight = difference.name.substr(prefix.size());
    auto group = std::ranges::find_if(groups, [&](const Group& known) {
      return known.weight == weight && known.how == difference.how && layer != kNoLayer;
    });
    if (group == groups.end()) group = groups.insert(groups.end(), Group{weight, difference.how, {}});
    if (layer != kNoLayer) group->layers.push_back(layer);
    if (difference.apart) {
      group->has_distance = true;
      group->nearest = std::min(group->nearest, *difference.apart);
      group->farthest = std::max(group->farthest, *difference.apart);
    }
  }
  std::vector<std::string> notes;
  for (const Group& group : groups) notes.push_back("the engine's weights are not the file's: " + words(group));
  const auto compared = comparison.equal + std::ssize(comparison.different);
  std::string count = groups.empty()
                          ? "the engine's weights have the file's values: " + counted(compared, "weight") + " compared"
                          : "of " + counted(compared, "weight") + " that the engine saved " +
                                std::to_string(comparison.equal) + " have the file's values";
  if (comparison.absent > 0) count += "; " + std::to_string(comparison.absent) + " of the model were not saved";
  notes.push_back(std::move(count));
  if (!comparison.unknown.empty()) {
    notes.push_back(
        counted(std::ssize(comparison.unknown), "tensor") +
        " among the engine's weights are not the model's and were not compared: " +
        report::joined(texts_of(comparison.unknown, [](const std::string& name) { return formats::printable(name); }),
                       3));
  }
  return notes;
}

}  // namespace qdiff::cli

// Which layers and steps are judged.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"

namespace qdiff::diagnose {

struct Extent {
  std::set<int> layers;
  bool outside_layers = true;  // embedding, final norm and lm_head too

  bool has(const TensorId& id) const { return id.layer == kNoLayer ? outside_layers : layers.contains(id.layer); }
};

// The wanted layers alone, and what lies outside where kNoLayer is among them; none given: everything. Throws
// InputError where the model lacks one of them, or the list is empty.
Extent select_layers(const std::optional<std::set<int>>& wanted, const ModelConfig& config);

// Selects those of the wanted steps (none given: of all) that hold more than padding.
std::set<int> select_steps(const std::optional<std::set<int>>& wanted, const std::vector<Step>& steps);

// The options that select this tensor: " --layers 2 --steps 0".
std::string options_selecting(const TensorKey& key);

}  // namespace qdiff::diagnose

// The weights that an engine holds, as it saved them, beside those of the model's file: which differ, how far, and in
// which pattern.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/weights.h"

namespace qdiff::diagnose {

// A weight that is not the file's.
struct WeightDifference {
  std::string name;  // as in the model: "model.layers.0.self_attn.q_proj.weight"
  // "rounded to bfloat16", "transposed", "rows in another order (row 1 is the file's row 32)", "the file's values times
  // 2", "other values in 1 of 4096 elements, first at [0, 3]: 0.5 where the file has 0.25"
  std::string how;
  // Root mean square of the difference over that of the file's values; none where whole rows, columns or matrices are
  // others, for the number says nothing there.
  std::optional<double> apart;
};

struct WeightComparison {
  std::int64_t equal = 0;  // so many have the file's values in every element, whatever type they are kept in
  std::vector<WeightDifference> different;  // in the model's order
  std::vector<std::string> unknown;         // names among what the engine holds that the model has not
  std::int64_t absent = 0;                  // weights of the model that were not saved
};

// `held` is a .safetensors file or a folder of some, with the model's names of weights; not all need be there.
// `progress` is told how many weights of how many are compared. Throws InputError where there is no such file, where
// none of its names is the model's, or for a type that holds no numbers of the matrix by themselves (integers without
// their scales).
WeightComparison compare_weights(const WeightSource& model, const std::filesystem::path& held,
                                 const std::function<void(std::int64_t done, std::int64_t total)>& progress = {});

}  // namespace qdiff::diagnose

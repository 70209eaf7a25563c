#include "harness/reduce/inputs.h"

#include <algorithm>
#include <utility>

#include "harness/contract/wording.h"

namespace qdiff::reduce {
namespace {

template <typename Items>
Items chosen(const Items& items, const Indices& kept) {
  Items result;
  for (const std::size_t index : kept) result.push_back(items[index]);
  return result;
}

// Makes numbers and lengths agree again, drops steps that hold nothing any more, and refuses a row of padding alone.
std::optional<Inputs> mended(Inputs inputs) {
  std::erase_if(inputs.steps, [](const Step& step) { return step.num_tokens() == 0; });
  std::int64_t length = 0;
  for (std::size_t i = 0; i < inputs.steps.size(); ++i) {
    inputs.steps[i].index = static_cast<int>(i);
    inputs.steps[i].past_length = length;
    length += inputs.steps[i].num_tokens();
  }
  for (const std::int64_t pads : inputs.steps.front().left_padding) {
    if (pads >= length) return std::nullopt;
  }
  return inputs;
}

}  // namespace

Inputs whole_case(const std::vector<Step>& steps, std::int64_t capacity, std::int64_t num_layers) {
  Inputs inputs{.layers = {},
                .rows = all_indices(static_cast<std::size_t>(steps.front().batch())),
                .slots = all_indices(static_cast<std::size_t>(steps.back().valid_length())),
                .steps = steps,
                .capacity = capacity};
  for (std::int64_t layer = 0; layer < num_layers; ++layer) inputs.layers.push_back(static_cast<int>(layer));
  return inputs;
}

Inputs keep_layers(const Inputs& inputs, const Indices& kept) {
  Inputs result = inputs;
  result.layers = chosen(inputs.layers, kept);
  return result;
}

std::optional<Inputs> keep_slots(const Inputs& inputs, const Indices& kept) {
  Inputs result = inputs;
  result.slots = chosen(inputs.slots, kept);
  std::vector<std::int64_t> padding = inputs.steps.front().left_padding;
  for (std::int64_t& pads : padding) {
    pads = std::ranges::count_if(kept, [&](std::size_t slot) { return static_cast<std::int64_t>(slot) < pads; });
  }
  for (Step& step : result.steps) {
    Indices within;
    for (const std::size_t slot : kept) {
      const std::int64_t token = static_cast<std::int64_t>(slot) - step.past_length;
      if (token >= 0 && token < step.num_tokens()) within.push_back(static_cast<std::size_t>(token));
    }
    for (auto& row : step.tokens) row = chosen(row, within);
    for (auto& row : step.positions) row = chosen(row, within);
    step.left_padding = padding;
  }
  return mended(std::move(result));
}

std::optional<Inputs> keep_steps(const Inputs& inputs, const Indices& kept) {
  Indices slots;
  for (const std::size_t index : kept) {
    const Step& step = inputs.steps[index];
    for (std::int64_t slot = step.past_length; slot < step.valid_length(); ++slot) {
      slots.push_back(static_cast<std::size_t>(slot));
    }
  }
  return keep_slots(inputs, slots);
}

std::optional<Inputs> keep_rows(const Inputs& inputs, const Indices& kept) {
  Inputs result = inputs;
  result.rows = chosen(inputs.rows, kept);
  for (Step& step : result.steps) {
    step.tokens = chosen(step.tokens, kept);
    step.positions = chosen(step.positions, kept);
    step.left_padding = chosen(step.left_padding, kept);
  }
  const std::vector<std::int64_t>& padding = result.steps.front().left_padding;
  const auto common = static_cast<std::size_t>(*std::ranges::min_element(padding));
  Indices slots = all_indices(result.slots.size());
  slots.erase(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(common));
  return keep_slots(result, slots);
}

std::optional<Inputs> sample_of(const Inputs& inputs) {
  // Half and twice as many cost and find the same: docs/narrowing.md.
  constexpr std::int64_t kFirst = 2, kLast = 4, kFirstDecode = 2, kLastDecode = 2;
  Indices kept;
  const auto keep_ends = [&kept](std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) {
    for (std::int64_t slot = begin; slot < end; ++slot) {
      if (slot < begin + first || slot >= end - last) kept.push_back(static_cast<std::size_t>(slot));
    }
  };
  std::int64_t prefilled = 0;
  for (const Step& step : inputs.steps) {
    if (step.phase == Phase::kDecode) continue;
    keep_ends(step.past_length, step.valid_length(), kFirst, kLast);
    prefilled = step.valid_length();
  }
  keep_ends(prefilled, inputs.length(), kFirstDecode, kLastDecode);
  if (2 * kept.size() > inputs.slots.size()) return std::nullopt;
  return keep_slots(inputs, kept);
}

Inputs join_steps(const Inputs& inputs, std::size_t first) {
  Inputs result = inputs;
  Step& step = result.steps[first];
  const Step& next = result.steps[first + 1];
  for (std::size_t row = 0; row < step.tokens.size(); ++row) {
    step.tokens[row].insert(step.tokens[row].end(), next.tokens[row].begin(), next.tokens[row].end());
    step.positions[row].insert(step.positions[row].end(), next.positions[row].begin(), next.positions[row].end());
  }
  step.phase = Phase::kPrefill;
  result.steps.erase(result.steps.begin() + static_cast<std::ptrdiff_t>(first) + 1);
  return *mended(std::move(result));
}

Inputs with_usual_positions(const Inputs& inputs) {
  Inputs result = inputs;
  for (Step& step : result.steps) set_default_positions(step);
  return result;
}

std::string in_words(const Inputs& inputs) {
  return counted(static_cast<std::int64_t>(inputs.layers.size()), "layer") + ", " + counted(inputs.batch(), "row") +
         ", " + counted(inputs.length(), "token") + " a row in " +
         counted(static_cast<std::int64_t>(inputs.steps.size()), "step");
}

}  // namespace qdiff::reduce

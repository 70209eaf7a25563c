#include "harness/contract/step.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace qdiff {
namespace {

[[noreturn]] void refuse_step(std::size_t step, const std::string& what) {
  throw std::invalid_argument("step " + std::to_string(step) + ": " + what);
}

std::string place(std::size_t b, std::size_t t) {
  return " at row " + std::to_string(b) + ", token " + std::to_string(t);
}

void check_values(std::size_t index, const std::vector<std::vector<std::int64_t>>& values, const Step& step,
                  const char* what, std::int64_t end) {
  if (values.size() != step.tokens.size())
    refuse_step(index, std::string(what) + "s have another number of rows than tokens");
  for (std::size_t b = 0; b < values.size(); ++b) {
    if (values[b].size() != step.tokens[b].size())
      refuse_step(index, std::string(what) + "s have another length than tokens");
    for (std::size_t t = 0; t < values[b].size(); ++t) {
      if (values[b][t] < 0 || values[b][t] >= end) {
        refuse_step(index, std::string(what) + ' ' + std::to_string(values[b][t]) + place(b, t) + " is not in [0, " +
                               std::to_string(end) + ")");
      }
    }
  }
}

}  // namespace

void set_default_positions(Step& step) {
  step.positions.assign(step.tokens.size(), {});
  for (std::size_t b = 0; b < step.tokens.size(); ++b) {
    for (std::size_t t = 0; t < step.tokens[b].size(); ++t) {
      const std::int64_t slot = step.past_length + static_cast<std::int64_t>(t);
      step.positions[b].push_back(std::max<std::int64_t>(0, slot - step.left_padding[b]));
    }
  }
}

void validate_steps(const std::vector<Step>& steps, std::int64_t vocab, std::int64_t max_position) {
  if (steps.empty()) throw std::invalid_argument("there are no steps");
  const Step& first = steps.front();
  std::int64_t past_length = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    if (step.index != static_cast<int>(i)) refuse_step(i, "has index " + std::to_string(step.index));
    if (step.tokens.empty()) refuse_step(i, "the batch is empty; it needs at least one row of tokens");
    if (step.tokens.size() != first.tokens.size()) refuse_step(i, "the number of rows differs from step 0's");
    if (step.num_tokens() == 0) refuse_step(i, "has no tokens");
    if (step.past_length != past_length) {
      refuse_step(i, "past_length is " + std::to_string(step.past_length) + ", but the steps before it hold " +
                         std::to_string(past_length) + " slots");
    }
    if (step.left_padding != first.left_padding) refuse_step(i, "left_padding differs from step 0's");
    std::vector<std::vector<std::int64_t>> ids;
    for (const auto& row : step.tokens) {
      if (row.size() != step.tokens.front().size())
        refuse_step(i, "rows of tokens differ in length; pad them on the left");
      ids.emplace_back(row.begin(), row.end());
    }
    check_values(i, ids, step, "token", vocab);
    check_values(i, step.positions, step, "position", max_position);
    past_length += step.num_tokens();
  }
  if (first.left_padding.size() != first.tokens.size())
    refuse_step(0, "left_padding has another number of rows than tokens");
  for (std::size_t b = 0; b < first.left_padding.size(); ++b) {
    const std::int64_t pads = first.left_padding[b];
    if (pads < 0 || pads >= past_length) {
      refuse_step(0, "left_padding " + std::to_string(pads) + " of row " + std::to_string(b) + " is not in [0, " +
                         std::to_string(past_length) + "), the length of the sequence");
    }
  }
}

}  // namespace qdiff

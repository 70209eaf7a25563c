// What a failing case is made of, and the ways to take something away from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/step.h"
#include "harness/reduce/minimize.h"

namespace qdiff::reduce {

// A sequence batch on some of a model's layers. A slot is one place of every row, so a step holds as many slots as it
// has tokens a row.
struct Inputs {
  std::vector<int> layers;  // of the whole model, ascending; together they are the model that runs
  Indices rows;             // of the whole batch
  Indices slots;            // of the whole sequence
  std::vector<Step> steps;
  std::int64_t capacity = 0;  // cache slots of each row

  std::int64_t batch() const { return static_cast<std::int64_t>(rows.size()); }
  std::int64_t length() const { return static_cast<std::int64_t>(slots.size()); }
};

// All of the case on all layers. `steps` form one sequence batch (validate_steps).
Inputs whole_case(const std::vector<Step>& steps, std::int64_t capacity, std::int64_t num_layers);

// Each of these keeps the parts with these numbers, ascending and at least one. What is kept stays what it was: its
// tokens, their positions, the step that it came in. None where a row would be left without a real token.
Inputs keep_layers(const Inputs& inputs, const Indices& kept);
std::optional<Inputs> keep_steps(const Inputs& inputs, const Indices& kept);
std::optional<Inputs> keep_slots(const Inputs& inputs, const Indices& kept);
// Slots that then hold padding alone go too.
std::optional<Inputs> keep_rows(const Inputs& inputs, const Indices& kept);

// A few tokens of each step on all layers, which cost next to nothing beside the whole: of a prefill step the first two
// and the last four, of the decode steps the first two and the last two. None where that is more than half of them.
std::optional<Inputs> sample_of(const Inputs& inputs);

// Step `first` and the one behind it become one prefill step.
Inputs join_steps(const Inputs& inputs, std::size_t first);
// The positions that slots and padding give.
Inputs with_usual_positions(const Inputs& inputs);

// "24 layers, 3 rows, 200 tokens a row in 4 steps"
std::string in_words(const Inputs& inputs);

}  // namespace qdiff::reduce

// Small random models and batches, and mistakes drawn at random from mechanisms, parameters and scopes. The same from a
// seed on every machine. None is a row of the fault table: where a row has the same parameters, another value is drawn.
#pragma once

#include <cstdint>
#include <optional>

#include "harness/contract/mistake.h"
#include "harness/selftest/draws.h"
#include "harness/selftest/random_case.h"

namespace qdiff::selftest {

// Two or three layers, one or two rows of some twenty tokens in two to four steps of both phases: large enough for each
// mechanism to have room, small enough for thousands of runs.
RandomCase draw_small_case(std::uint64_t seed);

// Nothing where the mechanism that was drawn has no place in this model: draw again.
std::optional<Mistake> draw_mistake(Draws& draw, const ModelConfig& config, const CaseInput& input);

}  // namespace qdiff::selftest

// By what a recorded float8 cache multiplies its numbers. The scale is an engine's own (calibrated, of a checkpoint, or
// 1), so that nothing but the recording tells it: every value is a number of the type times the scale, which leaves few
// scales, and of those the one counts under which what was to be stored is rounded to what is there.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/oracle.h"

namespace qdiff::diagnose {

// Of each cache that a float8 type explains with a scale other than 1, of both types; from its last recorded step.
// What the declaration says already is kept. `forget` is called after each layer.
std::map<QuantizedCache, CacheScales> read_cache_scales(const TensorStore& recorded, const std::vector<Step>& steps,
                                                        const ModelConfig& config, const Precision& declared,
                                                        const std::function<void()>& forget);

}  // namespace qdiff::diagnose

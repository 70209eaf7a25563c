// What the solvers of products share.
#pragma once

#include <vector>

#include "harness/explain/rows.h"
#include "harness/explain/scene.h"

namespace qdiff::explain {

// The scene's operation multiplies one recorded input with a matrix, with or without a bias behind it, and is small
// enough to be evaluated many times over.
bool is_product(const Scene& scene);
// That input.
TensorKey product_input(const Scene& scene, const Instance& instance);

// Root mean square of (actual - value) over the wrong elements of some rows, in deviations of right code: a mistake may
// be one of some heads or columns.
double distance(Scene& scene, const std::vector<SampledRow>& rows, const Instance& instance,
                const std::vector<double>& value);

}  // namespace qdiff::explain

// The mechanisms: each looks at the wrong tensors of an operation, solves for what the engine may have computed, and
// hands out theories. None has a tolerance of its own: accept.h decides. docs/mechanisms.md has the formulas.
#pragma once

#include <vector>

#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

// The tensor holds zeros, another recorded tensor of its size, or vectors (rows, or heads of a row) that stand
// elsewhere.
std::vector<Candidate> recover_copies(Scene& scene);
// Rows stand in the place of others of the same tensor, as right code has them.
std::vector<Candidate> recover_moved_rows(Scene& scene);
// The tensor is right code's times a constant, one for all or one for each head, or capped by a tanh.
std::vector<Candidate> recover_factor(Scene& scene);
// A whole layer that did not run, and recorded nothing.
std::vector<Candidate> recover_left_out(Scene& scene);
// An input is not the recorded one but another recorded tensor of its size.
std::vector<Candidate> recover_source(Scene& scene);
// Other coefficients of the terms of a sum, or other terms.
std::vector<Candidate> recover_sum(Scene& scene);
// The mean square of column blocks, eps outside the root, the weight of another norm, 1 + w.
std::vector<Candidate> recover_norm(Scene& scene);
// Coefficient of the bias, or the bias of another projection.
std::vector<Candidate> recover_bias(Scene& scene);
// Output columns that belong to other rows of the weights.
std::vector<Candidate> recover_product_rows(Scene& scene);
// Input columns permuted within blocks, or left out.
std::vector<Candidate> recover_product_inputs(Scene& scene);
// Weights that were rounded, to a type or to levels of 8 or 4 bits.
std::vector<Candidate> recover_product_weights(Scene& scene);
// Weights that are off by a constant in each group of inputs.
std::vector<Candidate> recover_product_groups(Scene& scene);
// Each column of a product or a norm has a factor of its own, or of a product or a bias a constant.
std::vector<Candidate> recover_columns(Scene& scene);
// Other positions, or other entries of the table of sines and cosines; caches of what should not have been rotated.
std::vector<Candidate> recover_rotation(Scene& scene);
// Pairs of dimensions that turn at other frequencies.
std::vector<Candidate> recover_rotation_frequency(Scene& scene);
// A rotation between two layouts of a head's dimensions.
std::vector<Candidate> recover_rotation_pairs(Scene& scene);
// Other slots are visible than should be.
std::vector<Candidate> recover_visible(Scene& scene);
// Query heads that read other key and value heads, heads out of place, heads and tokens exchanged in memory.
std::vector<Candidate> recover_heads(Scene& scene);
// A softmax whose sum counts more than the slots.
std::vector<Candidate> recover_softmax(Scene& scene);
// A product with the weights of another layer.
std::vector<Candidate> recover_other_layer(Scene& scene);
// Heads divided by their root mean square.
std::vector<Candidate> recover_head_norm(Scene& scene);
// Attention put together from rounded parts, or over zeros behind the last slot.
std::vector<Candidate> recover_attention(Scene& scene);
// A cache in 8 bits with a scale for each slot and head, or without it.
std::vector<Candidate> recover_int8(Scene& scene);
// Another function than SiLU.
std::vector<Candidate> recover_gate(Scene& scene);

}  // namespace qdiff::explain

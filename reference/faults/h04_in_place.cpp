// H04: an output written over what is still needed: a projection into its own input, or into the residual stream.
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

void wo_rows(Parameters& parameters, const Place&, double) { parameters.projection.in_place_rows = true; }
void columns(Parameters& parameters, const Place&, double value) {
  parameters.projection.in_place_columns = std::llround(value);
}

// The inputs of a residual sum are the stream and the product that is added to it.
void residual_lost(Parameters& parameters, const Place&, double value) {
  const bool product_alone = value == 1.0;
  parameters.inputs = [product_alone](const Tensors& own, const Setting&) {
    return Tensors{product_alone ? at::zeros_like(own[1]) : own[1], own[1]};
  };
}

void norm_into_residual(Parameters& parameters, const Place& place, double) {
  const Op norm = place.op == Op::kResidMid ? Op::kInputLayernorm : Op::kPostAttentionLayernorm;
  parameters.inputs = [norm](const Tensors& own, const Setting& setting) {
    return Tensors{setting.tensor(norm), own[1]};
  };
}

}  // namespace

std::vector<FaultEntry> in_place_faults() {
  const std::vector<Op> sums = {Op::kResidMid, Op::kOutput};
  return {
      {{"H04.wo_rows",
        "o_proj writes into its own input's memory, token by token",
        "an output buffer that aliases the input, with rows of another length",
        {Op::kOProj},
        "D > H*d and several tokens"},
       {},
       wo_rows},
      {{"H04.wo_cols",
        "o_proj writes into its own input, some columns at a time",
        "pytorch#184094",
        {Op::kOProj},
        "D above the tile"},
       {64.0, 16.0, 32.0, 128.0},
       columns},
      {{.id = "H04.residual_lost",
        .what = "the product overwrites the residual before the sum: twice the product (value 1: the product alone)",
        .source = "one buffer for the product and the residual",
        .ops = sums,
        .shows_when = "any step",
        .reach = Reach::kEach},
       {2.0, 1.0},
       residual_lost},
      {{.id = "H04.norm_into_residual",
        .what = "the normalised tensor stands where the residual should",
        .source = "sglang#28005",
        .ops = sums,
        .shows_when = "any step",
        .reach = Reach::kEach},
       {},
       norm_into_residual},
      {{"H04.down_in_act",
        "down_proj writes into its own input, some columns at a time",
        "the mechanism of H04.wo_cols",
        {Op::kDownProj},
        "D above the tile"},
       {64.0, 16.0, 32.0, 128.0},
       columns},
  };
}

}  // namespace qdiff::reference

// Known bugs outside the ten hypotheses.
#include "reference/setting.h"

namespace qdiff::reference {
namespace {

using enum Op;

void gate_up_swapped(Parameters& parameters, const Place&, double) {
  parameters.inputs = [](const Tensors& own, const Setting&) { return Tensors{own[1], own[0]}; };
}
void no_silu(Parameters& parameters, const Place&, double) { parameters.silu = false; }
void wrong_token_embedding(Parameters& parameters, const Place&, double) { parameters.token_offset = 1; }
void no_final_norm(Parameters& parameters, const Place&, double) {
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor&, const NormRule&, const Rounding&) { return x; };
}
void untied_lm_head(Parameters& parameters, const Place& place, double) {
  parameters.projection.named = weight_name({kEmbedTokens}, 0, place.config);
}
void layer_repeated(Parameters& parameters, const Place& place, double) {
  parameters.weight_layer = std::max(0, place.layer - 1);
}

}  // namespace

std::vector<FaultEntry> outsiders() {
  return {
      {{"X.gate_up_swapped", "silu(up) * gate", "two weights exchanged", {kAct}, "any step"}, {}, gate_up_swapped},
      {{"X.no_silu", "gate * up", "the activation left out", {kAct}, "any step"}, {}, no_silu},
      {{"X.wrong_token_embedding", "the embedding of token id + 1", "an index off by one", {kEmbedTokens}, "any step"},
       {},
       wrong_token_embedding},
      {{"X.no_final_norm", "the residual goes into lm_head as it is", "the last norm left out", {kNorm}, "any step"},
       {},
       no_final_norm},
      {{"X.untied_lm_head",
        "the embedding's weight in lm_head's place",
        "tie_word_embeddings misread",
        {kLmHead},
        "a model with an lm_head of its own"},
       {},
       untied_lm_head},
      {{"X.layer_repeated",
        "a layer computes with the weights of the layer before",
        "an index off by one in a loop over layers",
        {kInputLayernorm, kQProjMatmul, kKProjMatmul, kVProjMatmul, kQProj, kKProj, kVProj, kOProj,
         kPostAttentionLayernorm, kGateProj, kUpProj, kDownProj},
        "two layers or more"},
       {},
       layer_repeated},
  };
}

}  // namespace qdiff::reference

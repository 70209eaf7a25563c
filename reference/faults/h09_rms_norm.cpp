// H09: the norms. Right is x / sqrt(mean(x^2) + eps) * w, in fp32 or better (Zhang & Sennrich 2019; Qwen2RMSNorm).
#include <cmath>

#include "reference/arithmetic/norm.h"

namespace qdiff::reference {
namespace {

using enum Op;
using enum RoundingPoint;

at::Tensor mean_square_of(const at::Tensor& x, const Rounding& rounding) {
  return rounding.accumulated(x.square().mean(-1, /*keepdim=*/true));
}

void eps(Parameters& parameters, const Place&, double value) { parameters.norm.eps = value; }

void layernorm(Parameters& parameters, const Place&, double) {
  parameters.norm.subtract_mean = true;
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    const at::Tensor centred = x - x.mean(-1, true);
    return w * rounding.at(kRmsNormNormalized, centred * at::rsqrt(mean_square_of(x, rounding) + rule.eps));
  };
}

void layernorm_full(Parameters& parameters, const Place&, double) {
  parameters.norm.subtract_mean = true;
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    return rms_norm(x - x.mean(-1, true), w, rule.eps, rounding);
  };
}

void one_plus_weight(Parameters& parameters, const Place&, double) {
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    return rms_norm(x, w + 1.0, rule.eps, rounding);
  };
}

void no_weight(Parameters& parameters, const Place&, double) {
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    return rms_norm(x, at::ones_like(w), rule.eps, rounding);
  };
}

void no_sqrt(Parameters& parameters, const Place&, double) {
  parameters.norm.power = 1.0;
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    return w * rounding.at(kRmsNormNormalized, x / (mean_square_of(x, rounding) + rule.eps));
  };
}

void fp16_sum(Parameters& parameters, const Place&, double) {
  parameters.norm.norm = [](const at::Tensor& x, const at::Tensor& w, const NormRule& rule, const Rounding& rounding) {
    const at::Tensor sum = round_to(DType::kF16, x.square().sum(-1, /*keepdim=*/true));
    const at::Tensor inverse = at::rsqrt(sum / x.size(-1) + rule.eps);  // 0 where the sum is infinite
    return w * rounding.at(kRmsNormNormalized, x * inverse);
  };
}

void weight_from_other_layer(Parameters& parameters, const Place& place, double value) {
  const std::int64_t layers = place.config.num_layers;
  const std::int64_t shifted = (place.layer + std::llround(value)) % layers;
  parameters.weight_layer = static_cast<int>((shifted + layers) % layers);
}

double right_eps(const ModelConfig& config) { return config.rms_norm_eps; }

}  // namespace

std::vector<FaultEntry> rms_norm_faults() {
  const std::vector<Op> norms = {kInputLayernorm, kPostAttentionLayernorm, kNorm};
  auto at_each = [](std::string id, std::string what, std::string source, std::vector<Op> ops, std::string shows_when) {
    return VariantFacts{.id = std::move(id),
                        .what = std::move(what),
                        .source = std::move(source),
                        .ops = std::move(ops),
                        .shows_when = std::move(shows_when),
                        .reach = Reach::kEach};
  };
  const std::string tiny = "rows whose mean square is not far above epsilon";
  return {
      {at_each("H09.eps", "RMSNorm with another epsilon", "1e-5 of other model families; Qwen2.5 has 1e-6", norms,
               tiny),
       {1e-5, 1e-8, 1e-12, 0.0},
       eps,
       right_eps},
      {at_each("H09.layernorm", "the mean is subtracted from x", "LayerNorm in RMSNorm's place", norms,
               "rows whose mean is not 0"),
       {},
       layernorm},
      {at_each("H09.layernorm_full", "the mean is subtracted and the variance taken about it",
               "LayerNorm in RMSNorm's place", norms, "rows whose mean is not 0"),
       {},
       layernorm_full},
      {at_each("H09.one_plus_weight", "x/rms * (1 + w)", "Gemma's norm", norms, "any step"), {}, one_plus_weight},
      {at_each("H09.no_weight", "x/rms without the weight", "a weight never loaded", norms, "weights other than 1"),
       {},
       no_weight},
      {at_each("H09.no_sqrt", "x / (mean square + eps)", "the root left out", norms, "rows whose rms is not 1"),
       {},
       no_sqrt},
      {at_each("H09.fp16_sum", "the sum of squares is kept in fp16; beyond 65504 the row becomes 0",
               "half precision in the norm", norms, "rows whose squares sum to more than 65504, or fp32 storage"),
       {},
       fp16_sum},
      {at_each("H09.weight_from_other_layer", "the norm's weight of layer l + value", "an index off by one in a loader",
               {kInputLayernorm, kPostAttentionLayernorm}, "two layers or more"),
       {1.0, -1.0},
       weight_from_other_layer},
      {{"H09.final_norm_eps",
        "another epsilon in the final norm alone",
        "a default beside the config's value",
        {kNorm},
        tiny},
       {1e-5},
       eps,
       right_eps},
  };
}

}  // namespace qdiff::reference

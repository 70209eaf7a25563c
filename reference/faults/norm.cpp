// Wrong norms. Right is x / sqrt(mean(x^2) + eps) * w, in fp32 or better (Zhang & Sennrich 2019; Qwen2RMSNorm).
#include "reference/setting.h"

namespace qdiff::reference {
namespace {

struct WrongNorm {
  bool left_out = false;
  bool centred = false;          // x, where it is divided
  bool squares_centred = false;  // x, where it is squared
  bool no_root = false;
  bool fp16_sum = false;
  bool no_weight = false;
  double added_to_weight = 0.0;

  at::Tensor operator()(const at::Tensor& x, const at::Tensor& w, const NormRule& rule,
                        const Rounding& rounding) const {
    if (left_out) return x;
    const at::Tensor numerator = centred ? x - x.mean(-1, /*keepdim=*/true) : x;
    const at::Tensor squares = (squares_centred ? numerator : x).square();
    const at::Tensor mean_square =
        fp16_sum ? round_to(DType::kF16, squares.sum(-1, /*keepdim=*/true)) / x.size(-1)  // infinite: the row is 0
                 : rounding.accumulated(squares.mean(-1, /*keepdim=*/true));
    const at::Tensor normalized =
        no_root ? numerator / (mean_square + rule.eps) : numerator * at::rsqrt(mean_square + rule.eps);
    const at::Tensor weight = no_weight ? at::ones_like(w) : added_to_weight != 0.0 ? w + added_to_weight : w;
    return weight * rounding.at(RoundingPoint::kRmsNormNormalized, normalized);
  }
};

}  // namespace

void plant_norm(Parameters& parameters, const Place&, const Planting& planting) {
  WrongNorm wrong;
  for (const NumberedLaw& law : planting.laws) {
    switch (law.parameter) {
      case Parameter::kEpsilon:
        parameters.norm.eps = law.number;
        continue;
      case Parameter::kNormOutput:
        wrong.left_out = true;
        break;
      case Parameter::kMean:
        parameters.norm.subtract_mean = wrong.centred = true;
        wrong.squares_centred = law.law == Law::kThroughout;
        break;
      case Parameter::kNormWeight:
        if (law.law == Law::kPlus) {
          wrong.added_to_weight = law.number;
        } else if (law.law == Law::kNumber && law.number == 1.0) {
          wrong.no_weight = true;
        } else {
          unknown_law(law);
        }
        break;
      case Parameter::kNormPower:
        if (law.number != 1.0) unknown_law(law);
        parameters.norm.power = law.number;
        wrong.no_root = true;
        break;
      case Parameter::kSumOfSquares:
        if (law.law != Law::kInF16) unknown_law(law);
        wrong.fp16_sum = true;
        break;
      default:
        unknown_law(law);
    }
    parameters.norm.norm = wrong;
  }
}

}  // namespace qdiff::reference

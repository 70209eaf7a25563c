// Wrong biases of q, k and v (nn.Linear with bias in Qwen2Attention.__init__; o_proj and the MLP have none).
#include "reference/arithmetic/rotate.h"

namespace qdiff::reference {
namespace {

using enum Op;

at::Tensor bias_of(Op op, const Setting& setting) {
  return setting.weights.get(weight_name({op, setting.layer}, 0, setting.config()), setting.form());
}

at::Tensor by_token(const at::Tensor& bias, Op, const Setting& setting) {
  const at::Tensor token = at::arange(setting.step.num_tokens(), of_type(at::kLong)).remainder(bias.size(0));
  return bias.index_select(0, token).unsqueeze(-1);  // [T, 1]
}

at::Tensor first_row_alone(const at::Tensor& bias, Op, const Setting& setting) {
  const std::int64_t batch = setting.step.batch(), tokens = setting.step.num_tokens();
  const at::Tensor rows = at::zeros({setting.copies, batch * tokens, bias.size(0)}, bias.options());
  rows.select(1, 0).copy_(bias);
  return rows.view({setting.copies * batch, tokens, bias.size(0)});
}

at::Tensor modulo_hidden(const at::Tensor& bias, Op op, const Setting& setting) {
  const ModelConfig& config = setting.config();
  const at::Tensor fused = at::cat({bias_of(kQProj, setting), bias_of(kKProj, setting), bias_of(kVProj, setting)});
  const std::int64_t first = op == kQProj ? 0 : config.q_width() + (op == kVProj ? config.kv_width() : 0);
  return fused.index_select(0, at::arange(first, first + bias.size(0), of_type(at::kLong)).remainder(config.hidden));
}

// Computed in float64, whatever the engine computes in, which decides the level of a bias next to a tie; then float32,
// which holds what was quantised.
at::Tensor bias_in_int8(const at::Tensor& bias, Op, const Setting&) {
  const at::Tensor exact = bias.to(at::kDouble);
  const at::Tensor largest = exact.abs().max();
  // By a tensor: a GPU multiplies by the reciprocal of a scalar, which decides ties otherwise.
  const at::Tensor step = largest / at::full_like(largest, 127.0);
  const at::Tensor levels = at::round(exact / step.masked_fill(step.eq(0.0), 1.0));
  return round_to(DType::kF32, levels * step).to(bias.scalar_type());
}

void plant_bias_itself(Parameters& parameters, const NumberedLaw& law) {
  switch (law.law) {
    case Law::kTimes:
      parameters.bias = [factor = law.number](const at::Tensor& bias, Op, const Setting&) {
        return factor == 0.0 ? at::Tensor() : bias * factor;
      };
      return;
    case Law::kFirstRowAlone:
      parameters.bias = first_row_alone;
      return;
    case Law::kOtherOfKv:
      parameters.bias = [](const at::Tensor&, Op op, const Setting& setting) {
        return bias_of(op == kKProj ? kVProj : kKProj, setting);
      };
      return;
    case Law::kInF16:
    case Law::kInBF16:
      parameters.bias = [type = law.law == Law::kInF16 ? DType::kF16 : DType::kBF16](
                            const at::Tensor& bias, Op, const Setting&) { return round_to(type, bias); };
      return;
    case Law::kInInt8:
      parameters.bias = bias_in_int8;
      return;
    default:
      unknown_law(law);
  }
}

}  // namespace

void plant_bias(Parameters& parameters, const Place&, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    if (law.parameter == Parameter::kBias) {
      plant_bias_itself(parameters, law);
    } else if (law.parameter == Parameter::kBiasIndex && law.law == Law::kToken) {
      parameters.bias = by_token;
    } else if (law.parameter == Parameter::kBiasIndex && law.law == Law::kModuloHidden) {
      parameters.bias = modulo_hidden;
    } else if (law.parameter == Parameter::kBiasPlace && law.law == Law::kAfterRotation) {
      parameters.rope.rope = [](const at::Tensor& x, const at::Tensor& angles, Op op, const Setting& setting) {
        const at::Tensor bias = bias_of(op == kQRope ? kQProj : kKProj, setting);
        return rope(x, angles, setting.rounding) + bias.view({-1, setting.config().head_dim});
      };
    } else {
      unknown_law(law);
    }
  }
}

}  // namespace qdiff::reference

// H06: the biases of q, k and v (nn.Linear with bias in Qwen2Attention.__init__; o_proj and the MLP have none).
#include "reference/arithmetic/rotate.h"

namespace qdiff::reference {
namespace {

using enum Op;

at::Tensor bias_of(Op op, const Setting& setting) {
  return setting.weights.get(weight_name({op, setting.layer}, 0, setting.config()), setting.form());
}

void missing(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor&, Op, const Setting&) { return at::Tensor(); };
}
void prefill_missing(Parameters& parameters, const Place& place, double value) {
  if (!place.decode()) missing(parameters, place, value);
}
void decode_missing(Parameters& parameters, const Place& place, double value) {
  if (place.decode()) missing(parameters, place, value);
}

void row_axis(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor& bias, Op, const Setting& setting) {
    const at::Tensor token = at::arange(setting.step.num_tokens(), of_type(at::kLong)).remainder(bias.size(0));
    return bias.index_select(0, token).unsqueeze(-1);  // [T, 1]
  };
}

void first_row_only(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor& bias, Op, const Setting& setting) {
    const std::int64_t batch = setting.step.batch(), tokens = setting.step.num_tokens();
    const at::Tensor rows = at::zeros({setting.copies, batch * tokens, bias.size(0)}, bias.options());
    rows.select(1, 0).copy_(bias);
    return rows.view({setting.copies * batch, tokens, bias.size(0)});
  };
}

void kv_swapped(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor&, Op op, const Setting& setting) {
    return bias_of(op == kKProj ? kVProj : kKProj, setting);
  };
}

void length_hidden(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor& bias, Op op, const Setting& setting) {
    const ModelConfig& config = setting.config();
    const at::Tensor fused = at::cat({bias_of(kQProj, setting), bias_of(kKProj, setting), bias_of(kVProj, setting)});
    const std::int64_t first = op == kQProj ? 0 : config.q_width() + (op == kVProj ? config.kv_width() : 0);
    return fused.index_select(0, at::arange(first, first + bias.size(0), of_type(at::kLong)).remainder(config.hidden));
  };
}

void rounded(Parameters& parameters, DType type) {
  parameters.bias = [type](const at::Tensor& bias, Op, const Setting&) { return round_to(type, bias); };
}
void fp16(Parameters& parameters, const Place&, double) { rounded(parameters, DType::kF16); }
void bf16(Parameters& parameters, const Place&, double) { rounded(parameters, DType::kBF16); }
void int8(Parameters& parameters, const Place&, double) {
  parameters.bias = [](const at::Tensor& bias, Op, const Setting&) {
    // In float64, whatever the engine computes in, which decides the level of a bias next to a tie; then float32, which
    // holds what was quantised.
    const at::Tensor exact = bias.to(at::kDouble);
    const at::Tensor largest = exact.abs().max();
    // By a tensor: a GPU multiplies by the reciprocal of a scalar, which decides ties otherwise.
    const at::Tensor step = largest / at::full_like(largest, 127.0);
    const at::Tensor levels = at::round(exact / step.masked_fill(step.eq(0.0), 1.0));
    return round_to(DType::kF32, levels * step).to(bias.scalar_type());
  };
}

void after_rope(Parameters& parameters, const Place& place, double value) {
  if (place.op == kQProj || place.op == kKProj) return missing(parameters, place, value);
  parameters.rope.rope = [](const at::Tensor& x, const at::Tensor& angles, Op op, const Setting& setting) {
    const at::Tensor bias = bias_of(op == kQRope ? kQProj : kKProj, setting);
    return rope(x, angles, setting.rounding) + bias.view({-1, setting.config().head_dim});
  };
}

}  // namespace

std::vector<FaultEntry> qkv_bias_faults() {
  const std::vector<Op> all = {kQProj, kKProj, kVProj};
  const std::string not_held = "biases that the narrower type does not hold";
  return {
      {{"H06.missing_q", "q has no bias", "a loader that knows llama's projections alone", {kQProj}, "a q bias"},
       {},
       missing},
      {{"H06.missing_k", "k has no bias", "a loader that knows llama's projections alone", {kKProj}, "a k bias"},
       {},
       missing},
      {{"H06.missing_v", "v has no bias", "a loader that knows llama's projections alone", {kVProj}, "a v bias"},
       {},
       missing},
      {{"H06.missing_all", "q, k and v have no bias", "a model run as llama", all, "biases"}, {}, missing},
      {{"H06.prefill_missing", "no bias in prefill steps", "aprender#2769", all, "biases and a prefill step"},
       {},
       prefill_missing},
      {{"H06.decode_missing", "no bias in decode steps", "a decode kernel without bias", all,
        "biases and a decode step"},
       {},
       decode_missing},
      {{"H06.row_axis", "the bias is added along the tokens instead of the features", "a broadcast on the wrong axis",
        all, "biases"},
       {},
       row_axis},
      {{"H06.first_row_only", "of the step's B T rows the first alone gets the bias",
        "an epilogue that loads the bias for one row of its tile", all, "biases and more than one row"},
       {},
       first_row_only},
      {{"H06.kv_swapped",
        "k gets v's bias and v gets k's",
        "two pointers exchanged",
        {kKProj, kVProj},
        "k and v biases that differ"},
       {},
       kv_swapped},
      {{"H06.length_hidden", "the fused bias is taken to have D entries and reused from its start",
        "a length taken from the wrong dimension", all, "q, k and v together wider than D"},
       {},
       length_hidden},
      {{"H06.fp16", "the biases are rounded to fp16", "a loader that casts all vectors to one type", all, not_held},
       {},
       fp16},
      {{"H06.bf16", "the biases are rounded to bfloat16", "a loader that casts all vectors to one type", all, not_held},
       {},
       bf16},
      {{"H06.int8", "each bias is rounded to 255 levels of its largest", "a bias quantised with the weights", all,
        not_held},
       {},
       int8},
      {{"H06.after_rope",
        "the biases of q and k are added after the rotation",
        "a bias in a later kernel",
        {kQProj, kKProj, kQRope, kKRope},
        "biases"},
       {},
       after_rope},
  };
}

}  // namespace qdiff::reference

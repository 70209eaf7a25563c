// Wrong matrix products. Right is y = x W^T with W [out, in] row-major, as nn.Linear stores it.
#include <cmath>
#include <stdexcept>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

using enum Op;

std::string own_weight(const Place& place) { return weight_name({place.op, place.layer}, 0, place.config); }

void transpose_weight(Parameters& parameters, const Place& place) {
  parameters.projection.weight = [name = own_weight(place)](WeightStore& store, const WeightForm& form) {
    const at::Tensor weight = store.get(name, form);  // [out, in]
    return weight.reshape({weight.size(1), weight.size(0)}).t();
  };
}

// Row j starts at j * (in + excess).
void move_weight_rows(Parameters& parameters, const Place& place, std::int64_t excess) {
  const Shape shape = weight_shape(place.op, 0, place.config);
  const std::int64_t out = shape[0], in = shape[1], stride = in + excess;
  if (stride < 1) {
    throw std::invalid_argument("rows of " + std::to_string(in) + " columns and " + std::to_string(excess) +
                                " do not follow each other; take a value above " + std::to_string(-in));
  }
  const std::int64_t complete = std::min(out, (out * in - in) / stride + 1);  // rows that lie inside
  parameters.projection.weight = [=, name = own_weight(place)](WeightStore& store, const WeightForm& form) {
    const at::Tensor weight = store.get(name, form);
    const at::Tensor behind = at::zeros({out - complete, in}, weight.options());
    return at::cat({weight.contiguous().as_strided({complete, in}, {stride, 1}), behind});
  };
  if (complete < out) parameters.projection.unknown_from = complete;
}

// Rows for q, k, v in the fused weight [Wq; Wk; Wv], read as if it were [Wk; Wv; Wq].
void pack_as_kvq(Parameters& parameters, const Place& place) {
  const ModelConfig& c = place.config;
  const std::int64_t count = place.op == kQProjMatmul ? c.q_width() : c.kv_width();
  const std::int64_t first = place.op == kQProjMatmul ? 2 * c.kv_width() : place.op == kKProjMatmul ? 0 : c.kv_width();
  std::vector<std::string> names;
  for (Op op : {kQProjMatmul, kKProjMatmul, kVProjMatmul}) names.push_back(weight_name({op, place.layer}, 0, c));
  parameters.projection.weight = [=](WeightStore& store, const WeightForm& form) {
    Tensors parts;
    for (const std::string& name : names) parts.push_back(store.get(name, form));
    return at::cat(parts).narrow(0, first, count);
  };
}

void transpose_output(Parameters& parameters, const Place& place) {
  const std::int64_t tokens = place.step.batch() * place.step.num_tokens();
  parameters.projection.output = [tokens](const at::Tensor& y) {
    // Members of an ensemble are products of their own.
    const at::Tensor products = y.reshape({-1, tokens, y.size(-1)});
    return products.transpose(1, 2).contiguous().view(y.sizes());
  };
}

void plant_weight_rows(Parameters& parameters, const Place& place, const NumberedLaw& law) {
  if (law.law == Law::kPackedKvq) return pack_as_kvq(parameters, place);
  if (law.law != Law::kOfEmbedding) unknown_law(law);
  parameters.projection.named = weight_name({kEmbedTokens}, 0, place.config);
}

void plant_output_memory(Parameters& parameters, const Place& place, const NumberedLaw& law) {
  if (law.law == Law::kTransposed) return transpose_output(parameters, place);
  if (law.law == Law::kOverInputRows) {
    parameters.projection.in_place_rows = true;
  } else if (law.law == Law::kOverInputColumns) {
    parameters.projection.in_place_columns = std::llround(law.number);
  } else {
    unknown_law(law);
  }
}

}  // namespace

void plant_product(Parameters& parameters, const Place& place, const Planting& planting) {
  for (const NumberedLaw& law : planting.laws) {
    const std::int64_t number = std::llround(law.number);
    switch (law.parameter) {
      case Parameter::kWeightMemory:
        transpose_weight(parameters, place);
        break;
      case Parameter::kWeightRowStart:
        move_weight_rows(parameters, place, number);
        break;
      case Parameter::kWeightRows:
        plant_weight_rows(parameters, place, law);
        break;
      case Parameter::kInputColumn:
        parameters.projection.input = [number](const at::Tensor& x) {
          return x.index_select(-1, at::arange(x.size(-1), of_type(at::kLong)).remainder(number));
        };
        break;
      case Parameter::kRunningSum:
        if (law.law != Law::kInBF16) unknown_law(law);
        parameters.projection.bf16_sum_block = number;
        break;
      case Parameter::kProduct:
        if (law.law != Law::kInF16) unknown_law(law);
        parameters.projection.result_type = DType::kF16;
        break;
      case Parameter::kOutputMemory:
        plant_output_memory(parameters, place, law);
        break;
      default:
        unknown_law(law);
    }
  }
}

}  // namespace qdiff::reference

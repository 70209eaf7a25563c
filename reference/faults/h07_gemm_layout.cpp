// H07: matrix products with the wrong layout. Right is y = x W^T with W [out, in] row-major, as nn.Linear stores it.
#include <cmath>

#include "reference/setting.h"

namespace qdiff::reference {
namespace {

using enum Op;

std::string own_weight(const Place& place) { return weight_name({place.op, place.layer}, 0, place.config); }

void transposed(Parameters& parameters, const Place& place, double) {
  parameters.projection.weight = [name = own_weight(place)](WeightStore& store, const WeightForm& form) {
    const at::Tensor weight = store.get(name, form);  // [out, in]
    return weight.reshape({weight.size(1), weight.size(0)}).t();
  };
}

void lda(Parameters& parameters, const Place& place, double value) {
  const std::int64_t excess = std::llround(value);
  const Shape shape = weight_shape(place.op, 0, place.config);
  const std::int64_t out = shape[0], in = shape[1], stride = in + excess;
  if (stride < 1) {
    throw std::invalid_argument("fault H07.lda: rows of " + std::to_string(in) + " columns and " +
                                std::to_string(excess) + " do not follow each other; take a value above " +
                                std::to_string(-in));
  }
  const std::int64_t complete = std::min(out, (out * in - in) / stride + 1);  // rows that lie inside
  parameters.projection.weight = [=, name = own_weight(place)](WeightStore& store, const WeightForm& form) {
    const at::Tensor weight = store.get(name, form);
    const at::Tensor behind = at::zeros({out - complete, in}, weight.options());
    return at::cat({weight.contiguous().as_strided({complete, in}, {stride, 1}), behind});
  };
  if (complete < out) parameters.projection.unknown_from = complete;
}

void column_major_out(Parameters& parameters, const Place& place, double) {
  const std::int64_t tokens = place.step.batch() * place.step.num_tokens();
  parameters.projection.output = [tokens](const at::Tensor& y) {
    // Members of an ensemble are products of their own.
    const at::Tensor products = y.reshape({-1, tokens, y.size(-1)});
    return products.transpose(1, 2).contiguous().view(y.sizes());
  };
}

// Rows for q, k, v in the fused weight [Wq; Wk; Wv], read as if it were [Wk; Wv; Wq].
void packed_order(Parameters& parameters, const Place& place, double) {
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

void first_tile_only(Parameters& parameters, const Place&, double value) {
  const std::int64_t tile = std::llround(value);
  parameters.projection.input = [tile](const at::Tensor& x) {
    return x.index_select(-1, at::arange(x.size(-1), of_type(at::kLong)).remainder(tile));
  };
}

void acc_bf16(Parameters& parameters, const Place&, double value) {
  parameters.projection.bf16_sum_block = std::llround(value);
}
void out_fp16(Parameters& parameters, const Place&, double) { parameters.projection.result_type = DType::kF16; }

}  // namespace

std::vector<FaultEntry> gemm_layout_faults() {
  std::vector<FaultEntry> faults;
  const std::vector<std::pair<std::string, Op>> projections = {
      {"q", kQProjMatmul}, {"k", kKProjMatmul}, {"v", kVProjMatmul}, {"o", kOProj},
      {"gate", kGateProj}, {"up", kUpProj},     {"down", kDownProj}};
  std::vector<Op> any;
  for (const auto& [name, op] : projections) {
    any.push_back(op);
    faults.push_back({{"H07.transposed_" + name,
                       "the memory of " + name + "_proj's weight is read as [in, out]",
                       "a missing transpose; legal where the weight is square",
                       {op},
                       "a weight that is not symmetric"},
                      {},
                      transposed});
  }
  auto at_each = [&](std::string id, std::string what, std::string source, std::string shows_when) {
    return VariantFacts{.id = std::move(id),
                        .what = std::move(what),
                        .source = std::move(source),
                        .ops = any,
                        .shows_when = std::move(shows_when),
                        .reach = Reach::kEach};
  };
  faults.push_back({at_each("H07.lda", "row j of the weight starts at j (in + value)",
                            "a leading dimension of another operand, or padded", "several output columns"),
                    {1.0, 8.0, -1.0},
                    lda});
  faults.push_back({at_each("H07.column_major_out", "the product is stored column by column and read row by row",
                            "a column-major library's output taken as row-major", "more than one token"),
                    {},
                    column_major_out});
  faults.push_back({{"H07.packed_order",
                     "the fused weight [Wq; Wk; Wv] is read in the order k, v, q",
                     "packed weights of another loader",
                     {kQProjMatmul, kKProjMatmul, kVProjMatmul},
                     "any step"},
                    {},
                    packed_order});
  faults.push_back({at_each("H07.first_tile_only", "every K tile multiplies the first tile of the input",
                            "1bit-MONSTER#1273", "an input wider than the tile"),
                    {64.0, 16.0, 32.0, 128.0},
                    first_tile_only});
  faults.push_back({at_each("H07.acc_bf16", "the running sum is rounded to bfloat16 after every K block",
                            "an accumulator of the storage type", "an input wider than the block"),
                    {32.0, 16.0, 64.0, 128.0},
                    acc_bf16});
  VariantFacts fp16_products = at_each("H07.out_fp16", "the product is rounded to fp16 before it is stored",
                                       "an fp16 GEMM whose output is converted", "storage other than fp16");
  fp16_products.only_rounds = true;
  faults.push_back({std::move(fp16_products), {}, out_fp16});
  return faults;
}

}  // namespace qdiff::reference

#include "harness/contract/operation_table.h"

#include <charconv>
#include <set>
#include <stdexcept>
#include <tuple>

namespace qdiff {
namespace {

constexpr std::string_view kLayerPrefix = "model.layers.";

auto execution_order(const TensorId& id) {
  return std::make_tuple(static_cast<int>(row(id.op).scope), id.layer, static_cast<int>(id.op));
}

std::int64_t extent(Dim dim, const ModelConfig& c, std::int64_t batch, std::int64_t num_tokens,
                    std::int64_t valid_length) {
  switch (dim) {
    case Dim::kB:
      return batch;
    case Dim::kT:
      return num_tokens;
    case Dim::kS:
      return valid_length;
    case Dim::kHidden:
      return c.hidden;
    case Dim::kQHeads:
      return c.num_q_heads;
    case Dim::kKvHeads:
      return c.num_kv_heads;
    case Dim::kHeadDim:
      return c.head_dim;
    case Dim::kQWidth:
      return c.q_width();
    case Dim::kKvWidth:
      return c.kv_width();
    case Dim::kIntermediate:
      return c.intermediate;
    case Dim::kVocab:
      return c.vocab;
  }
  throw std::logic_error("extent: unknown dimension");
}

}  // namespace

std::optional<RoundingPoint> parse_rounding_point(std::string_view text) {
  for (std::size_t i = 0; i < kNumRoundingPoints; ++i) {
    if (kRoundingPointNames[i] == text) return static_cast<RoundingPoint>(i);
  }
  return std::nullopt;
}

bool runs_before(const TensorId& a, const TensorId& b) { return execution_order(a) < execution_order(b); }

bool operator<(const TensorKey& a, const TensorKey& b) {
  if (a.step != b.step) return a.step < b.step;
  return runs_before(a.id, b.id);
}

std::string tensor_name(const TensorId& id) {
  const OperationRow& r = row(id.op);
  if (r.scope != Scope::kLayer) return std::string(r.name);
  return std::string(kLayerPrefix) + std::to_string(id.layer) + '.' + std::string(r.name);
}

std::optional<TensorId> parse_tensor_name(std::string_view text) {
  int layer = kNoLayer;
  if (text.starts_with(kLayerPrefix)) {
    const std::string_view rest = text.substr(kLayerPrefix.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
    const auto digits = static_cast<std::size_t>(end - rest.data());
    const bool leading_zero = digits > 1 && rest.front() == '0';
    if (error != std::errc{} || layer < 0 || leading_zero || digits >= rest.size() || *end != '.') return std::nullopt;
    text = rest.substr(digits + 1);
  }
  for (const OperationRow& r : kOperationTable) {
    if (r.name == text && (r.scope == Scope::kLayer) == (layer != kNoLayer)) return TensorId{r.op, layer};
  }
  return std::nullopt;
}

std::string weight_name(const TensorId& id, std::size_t index, const ModelConfig& config) {
  const OperationRow& r = row(id.op);
  if (id.op == Op::kLmHead && config.tie_word_embeddings) return std::string(row(Op::kEmbedTokens).weights[0].name);
  const std::string suffix(r.weights[index].name);
  return r.scope == Scope::kLayer ? std::string(kLayerPrefix) + std::to_string(id.layer) + '.' + suffix : suffix;
}

Shape weight_shape(Op op, std::size_t index, const ModelConfig& config) {
  if (index >= row(op).weights.size()) throw std::out_of_range("weight_shape: the row has no such weight");
  Shape shape;
  for (Dim dim : row(op).weights[index].shape) shape.push_back(extent(dim, config, 0, 0, 0));
  return shape;
}

std::vector<ModelWeight> weights_of(const ModelConfig& config) {
  std::vector<ModelWeight> weights;
  std::set<std::string> listed;
  for (const TensorId& id : all_tensors(config, /*optional_too=*/true)) {
    const OperationRow& r = row(id.op);
    if (!config.has(r.component)) continue;
    for (std::size_t i = 0; i < r.weights.size(); ++i) {
      std::string name = weight_name(id, i, config);
      if (listed.insert(name).second) weights.push_back({id, i, std::move(name), weight_shape(id.op, i, config)});
    }
  }
  return weights;
}

TensorId resolve(const Input& input, const TensorId& id, const ModelConfig& config) {
  if (input.from != From::kResidual) return {input.op, row(input.op).scope == Scope::kLayer ? id.layer : kNoLayer};
  const int layers_before = row(id.op).scope == Scope::kLayer ? id.layer : static_cast<int>(config.num_layers);
  if (layers_before == 0) return {Op::kEmbedTokens, kNoLayer};
  return {Op::kOutput, layers_before - 1};
}

Shape output_shape(Op op, const ModelConfig& config, std::int64_t batch, std::int64_t num_tokens,
                   std::int64_t valid_length) {
  Shape shape;
  for (Dim dim : row(op).shape) shape.push_back(extent(dim, config, batch, num_tokens, valid_length));
  return shape;
}

std::vector<TensorId> all_tensors(const ModelConfig& config, bool optional_too) {
  std::vector<TensorId> ids;
  auto add_scope = [&](Scope scope, int layer) {
    for (const OperationRow& r : kOperationTable) {
      if (r.scope == scope && (optional_too || !r.optional)) ids.push_back({r.op, layer});
    }
  };
  add_scope(Scope::kBeforeLayers, kNoLayer);
  for (int layer = 0; layer < config.num_layers; ++layer) add_scope(Scope::kLayer, layer);
  add_scope(Scope::kAfterLayers, kNoLayer);
  return ids;
}

}  // namespace qdiff

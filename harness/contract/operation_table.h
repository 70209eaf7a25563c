// The forward pass of Qwen2.5 as one table of named operations: the single source of tensor names, shapes, inputs,
// weights and rounding points. The reference, the engines, the judge, traces and reports all read this table.
//
// Order is execution order. Source of the order and of the names: transformers, models/qwen2/modeling_qwen2.py
// (Qwen2DecoderLayer.forward, Qwen2Attention.forward, Qwen2MLP.forward).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "harness/contract/config.h"
#include "harness/contract/tensor.h"

namespace qdiff {

// One operation, and at the same time the tensor that it puts out.
enum class Op : std::uint8_t {
  kEmbedTokens,
  kInputLayernorm,
  kQProjMatmul,
  kKProjMatmul,
  kVProjMatmul,
  kQProj,
  kKProj,
  kVProj,
  kQRope,
  kKRope,
  kKCache,
  kVCache,
  kScores,
  kProbs,
  kAttnOutput,
  kOProj,
  kResidMid,
  kPostAttentionLayernorm,
  kGateProj,
  kUpProj,
  kAct,
  kDownProj,
  kOutput,
  kNorm,
  kLmHead,
};
inline constexpr std::size_t kNumOps = 25;

// Places between named tensors where an engine may round; the manifest's `compute.points`.
enum class RoundingPoint : std::uint8_t {
  kRmsNormNormalized,      // x/rms before the weight
  kMatmulBeforeBias,       // GEMM output before the bias
  kRopeTable,              // cos and sin
  kRopeProducts,           // the two products before their sum
  kMlpSilu,                // silu(gate) before the product
  kAttentionQuery,         // q as it enters QK^T
  kAttentionScores,        // QK^T before the scale
  kAttentionScaledScores,  // after the scale
  kAttentionProbs,         // softmax's result before P.V
  kAttentionAccumulate,    // the sums of QK^T and P.V
  kKvCache,                // k and v as stored in the cache
};
inline constexpr std::size_t kNumRoundingPoints = 11;

constexpr std::array<std::string_view, kNumRoundingPoints> kRoundingPointNames = {"rms_norm.normalized",
                                                                                  "matmul.before_bias",
                                                                                  "rope.table",
                                                                                  "rope.products",
                                                                                  "mlp.silu",
                                                                                  "attention.query",
                                                                                  "attention.scores",
                                                                                  "attention.scaled_scores",
                                                                                  "attention.probs",
                                                                                  "attention.accumulate",
                                                                                  "kv_cache"};
constexpr std::string_view name(RoundingPoint point) { return kRoundingPointNames[static_cast<std::size_t>(point)]; }
std::optional<RoundingPoint> parse_rounding_point(std::string_view text);

enum class Dim : std::uint8_t {
  kB,             // batch
  kT,             // tokens of this step
  kS,             // valid cache slots after this step
  kHidden,        // D
  kQHeads,        // H
  kKvHeads,       // K
  kHeadDim,       // d
  kQWidth,        // H*d
  kKvWidth,       // K*d
  kIntermediate,  // I
  kVocab,         // V
};

enum class Scope : std::uint8_t { kBeforeLayers, kLayer, kAfterLayers };

// Where an input comes from, seen from the row that reads it.
enum class From : std::uint8_t {
  kHere,          // the same step and layer
  kResidual,      // the residual stream entering this layer: the previous layer's kOutput, or kEmbedTokens
  kPreviousStep,  // the same tensor of the step before; nothing at step 0
};

struct Input {
  Op op;
  From from = From::kHere;
};

// A short constexpr list.
template <typename T, std::size_t kCapacity>
struct FixedList {
  std::array<T, kCapacity> items{};
  std::size_t count = 0;
  constexpr FixedList() = default;
  template <typename... U>
  constexpr FixedList(U... values) : items{values...}, count(sizeof...(values)) {}  // NOLINT: lists read as data
  constexpr const T* begin() const { return items.data(); }
  constexpr const T* end() const { return items.data() + count; }
  constexpr std::size_t size() const { return count; }
  constexpr bool empty() const { return count == 0; }
  constexpr const T& operator[](std::size_t i) const { return items[i]; }
};

// How a value comes about, which decides how it is judged.
enum class Kind : std::uint8_t {
  kMove,       // data only moves: equal bits after rounding to the stored dtype
  kPointwise,  // a fixed number of roundings for each element
  kReduce,     // sums of a length that depends on the model or the sequence
};

struct OperationRow {
  Op op;
  std::string_view name;  // without "model.layers.{i}."
  Scope scope;
  Kind kind;
  bool optional;  // a fused engine need not materialise it
  FixedList<Dim, 4> shape;
  FixedList<Input, 3> inputs;
  FixedList<std::string_view, 2> weights;  // without "model.layers.{i}."
  FixedList<RoundingPoint, 4> points;      // rounding points inside this operation, in order
};

namespace operation_table_detail {
using enum Op;
using enum Dim;
using P = RoundingPoint;
using Shape4 = FixedList<Dim, 4>;
inline constexpr Input kResidualStream{kOutput, From::kResidual};
inline constexpr Shape4 kHiddenRows{kB, kT, kHidden}, kQRows{kB, kT, kQWidth}, kKvRows{kB, kT, kKvWidth},
    kIntermediateRows{kB, kT, kIntermediate}, kCacheShape{kB, kS, kKvHeads, kHeadDim},
    kScoresShape{kB, kQHeads, kT, kS};
inline constexpr Scope kBefore = Scope::kBeforeLayers, kL = Scope::kLayer, kAfter = Scope::kAfterLayers;
inline constexpr Kind kMove = Kind::kMove, kPoint = Kind::kPointwise, kSum = Kind::kReduce;
}  // namespace operation_table_detail

// clang-format off
inline constexpr std::array<OperationRow, kNumOps> kOperationTable = [] {
  using namespace operation_table_detail;
  constexpr bool kOpt = true, kReq = false;
  return std::array<OperationRow, kNumOps>{{
    // op                   name                        scope    kind    optional shape              inputs                          weights                                             rounding points
    {kEmbedTokens,            "model.embed_tokens",       kBefore, kMove,  kReq, kHiddenRows,       {},                             {"model.embed_tokens.weight"},                      {}},
    {kInputLayernorm,         "input_layernorm",          kL,      kSum,   kReq, kHiddenRows,       {kResidualStream},              {"input_layernorm.weight"},                         {P::kRmsNormNormalized}},
    {kQProjMatmul,            "self_attn.q_proj.matmul",  kL,      kSum,   kOpt, kQRows,            {Input{kInputLayernorm}},       {"self_attn.q_proj.weight"},                        {P::kMatmulBeforeBias}},
    {kKProjMatmul,            "self_attn.k_proj.matmul",  kL,      kSum,   kOpt, kKvRows,           {Input{kInputLayernorm}},       {"self_attn.k_proj.weight"},                        {P::kMatmulBeforeBias}},
    {kVProjMatmul,            "self_attn.v_proj.matmul",  kL,      kSum,   kOpt, kKvRows,           {Input{kInputLayernorm}},       {"self_attn.v_proj.weight"},                        {P::kMatmulBeforeBias}},
    {kQProj,                  "self_attn.q_proj",         kL,      kPoint, kReq, kQRows,            {Input{kQProjMatmul}},          {"self_attn.q_proj.bias"},                          {}},
    {kKProj,                  "self_attn.k_proj",         kL,      kPoint, kReq, kKvRows,           {Input{kKProjMatmul}},          {"self_attn.k_proj.bias"},                          {}},
    {kVProj,                  "self_attn.v_proj",         kL,      kPoint, kReq, kKvRows,           {Input{kVProjMatmul}},          {"self_attn.v_proj.bias"},                          {}},
    {kQRope,                  "self_attn.q_rope",         kL,      kPoint, kReq, {kB, kT, kQHeads, kHeadDim},  {Input{kQProj}},     {},                                                 {P::kRopeTable, P::kRopeProducts}},
    {kKRope,                  "self_attn.k_rope",         kL,      kPoint, kReq, {kB, kT, kKvHeads, kHeadDim}, {Input{kKProj}},     {},                                                 {P::kRopeTable, P::kRopeProducts}},
    {kKCache,                 "self_attn.k_cache",        kL,      kMove,  kOpt, kCacheShape,       {Input{kKCache, From::kPreviousStep}, Input{kKRope}}, {},                           {P::kKvCache}},
    {kVCache,                 "self_attn.v_cache",        kL,      kMove,  kOpt, kCacheShape,       {Input{kVCache, From::kPreviousStep}, Input{kVProj}}, {},                           {P::kKvCache}},
    {kScores,                 "self_attn.scores",         kL,      kSum,   kOpt, kScoresShape,      {Input{kQRope}, Input{kKCache}},  {},                                               {P::kAttentionQuery, P::kAttentionAccumulate, P::kAttentionScores, P::kAttentionScaledScores}},
    {kProbs,                  "self_attn.probs",          kL,      kSum,   kOpt, kScoresShape,      {Input{kScores}},               {},                                                 {P::kAttentionProbs}},
    {kAttnOutput,             "self_attn.attn_output",    kL,      kSum,   kReq, kQRows,            {Input{kProbs}, Input{kVCache}},  {},                                               {P::kAttentionAccumulate}},
    {kOProj,                  "self_attn.o_proj",         kL,      kSum,   kReq, kHiddenRows,       {Input{kAttnOutput}},           {"self_attn.o_proj.weight"},                        {}},
    {kResidMid,               "resid_mid",                kL,      kPoint, kReq, kHiddenRows,       {kResidualStream, Input{kOProj}}, {},                                               {}},
    {kPostAttentionLayernorm, "post_attention_layernorm", kL,      kSum,   kReq, kHiddenRows,       {Input{kResidMid}},             {"post_attention_layernorm.weight"},                {P::kRmsNormNormalized}},
    {kGateProj,               "mlp.gate_proj",            kL,      kSum,   kReq, kIntermediateRows, {Input{kPostAttentionLayernorm}}, {"mlp.gate_proj.weight"},                         {}},
    {kUpProj,                 "mlp.up_proj",              kL,      kSum,   kReq, kIntermediateRows, {Input{kPostAttentionLayernorm}}, {"mlp.up_proj.weight"},                           {}},
    {kAct,                    "mlp.act",                  kL,      kPoint, kReq, kIntermediateRows, {Input{kGateProj}, Input{kUpProj}}, {},                                             {P::kMlpSilu}},
    {kDownProj,               "mlp.down_proj",            kL,      kSum,   kReq, kHiddenRows,       {Input{kAct}},                  {"mlp.down_proj.weight"},                           {}},
    {kOutput,                 "output",                   kL,      kPoint, kReq, kHiddenRows,       {Input{kResidMid}, Input{kDownProj}}, {},                                           {}},
    {kNorm,                   "model.norm",               kAfter,  kSum,   kReq, kHiddenRows,       {kResidualStream},              {"model.norm.weight"},                              {P::kRmsNormNormalized}},
    {kLmHead,                 "lm_head",                  kAfter,  kSum,   kReq, {kB, kT, kVocab},  {Input{kNorm}},                 {"lm_head.weight"},                                 {}},
  }};
}();
// clang-format on

constexpr const OperationRow& row(Op op) { return kOperationTable[static_cast<std::size_t>(op)]; }

constexpr bool table_is_in_enum_order() {
  for (std::size_t i = 0; i < kNumOps; ++i) {
    if (static_cast<std::size_t>(kOperationTable[i].op) != i) return false;
  }
  return true;
}
static_assert(table_is_in_enum_order(), "kOperationTable must list the rows in the order of enum Op");

// A tensor of the forward pass: an operation and, inside the layers, which one. `layer` is kNoLayer outside them.
inline constexpr int kNoLayer = -1;
struct TensorId {
  Op op = Op::kEmbedTokens;
  int layer = kNoLayer;
  auto operator<=>(const TensorId&) const = default;
};

// A tensor of one step. Sorted by step, then by execution order.
struct TensorKey {
  int step = 0;
  TensorId id;
  bool operator==(const TensorKey&) const = default;
};
bool operator<(const TensorKey& a, const TensorKey& b);
// Execution order within a step: embedding, layer by layer, final norm, lm_head.
bool runs_before(const TensorId& a, const TensorId& b);

std::string tensor_name(const TensorId& id);  // "model.layers.3.self_attn.q_rope"
// Empty where no row of the table has that name (a layer number beyond the model is not checked here).
std::optional<TensorId> parse_tensor_name(std::string_view text);

// Full name of weight `index` of a row, "model.layers.3.mlp.up_proj.weight"; with tied embeddings lm_head's weight is
// "model.embed_tokens.weight".
std::string weight_name(const TensorId& id, std::size_t index, const ModelConfig& config);
// [out, in] for a projection, [V, D] for the embedding and lm_head, [n] for a norm or a bias.
Shape weight_shape(Op op, std::size_t index, const ModelConfig& config);

// The tensor that `input` of the row of `id` names, within the same step (From::kPreviousStep gives the tensor whose
// value of the step before is meant).
TensorId resolve(const Input& input, const TensorId& id, const ModelConfig& config);

// Shape of a row's output; `num_tokens` T, `valid_length` S.
Shape output_shape(Op op, const ModelConfig& config, std::int64_t batch, std::int64_t num_tokens,
                   std::int64_t valid_length);

// The tensors of one step in execution order. With `optional_too` false the rows marked optional are left out.
std::vector<TensorId> all_tensors(const ModelConfig& config, bool optional_too);

}  // namespace qdiff

// The forward pass of Qwen2.5 as one table of named operations: the single source of tensor names, shapes, inputs,
// arithmetic, weights and rounding points. The reference, the engines, the judge, traces and reports read this table,
// and nothing asks which row it has before it but for a row's own columns (scripts/check_operations.py holds them to
// it).
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
#include <vector>

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
inline constexpr std::size_t kNumOps = static_cast<std::size_t>(Op::kLmHead) + 1;  // the last one

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
  kMatmulPartials,         // the sums of parts of a product's input, where they meet (split-K)
  kKvCachePrefill,         // k and v of a prefill step's own tokens, attended to as they were before the cache
};
inline constexpr std::size_t kNumRoundingPoints = 13;

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
                                                                                  "kv_cache",
                                                                                  "matmul.partials",
                                                                                  "kv_cache.prefill"};
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

// What a row computes. Its value and its expected rounding (reference/arithmetic/), and how far honest engines stray
// (compare/bounds.h), go by it.
enum class Arithmetic : std::uint8_t {
  kLookup,       // rows of a matrix, by token id
  kNorm,         // RMSNorm
  kProduct,      // x W^T
  kBias,         // x + b
  kRotate,       // RoPE
  kAppend,       // the cache of the step before, and behind it what this step adds
  kScores,       // q k^T, scaled and masked
  kSoftmax,      // over the last dimension
  kWeightedSum,  // probabilities times values
  kGate,         // silu(gate) * up
  kAdd,          // a + b
};

struct ArithmeticFacts {
  Arithmetic arithmetic;
  std::string_view name;
  bool moves;  // data only moves: equal bits after rounding to the stored dtype
  bool sums;   // over a length that depends on the model or the sequence
};
inline constexpr std::array kArithmetics = {
    ArithmeticFacts{Arithmetic::kLookup, "lookup", true, false},
    ArithmeticFacts{Arithmetic::kNorm, "norm", false, true},
    ArithmeticFacts{Arithmetic::kProduct, "product", false, true},
    ArithmeticFacts{Arithmetic::kBias, "bias", false, false},
    ArithmeticFacts{Arithmetic::kRotate, "rotate", false, false},
    ArithmeticFacts{Arithmetic::kAppend, "append", true, false},
    ArithmeticFacts{Arithmetic::kScores, "scores", false, true},
    ArithmeticFacts{Arithmetic::kSoftmax, "softmax", false, true},
    ArithmeticFacts{Arithmetic::kWeightedSum, "weighted_sum", false, true},
    ArithmeticFacts{Arithmetic::kGate, "gate", false, false},
    ArithmeticFacts{Arithmetic::kAdd, "add", false, false},
};
inline constexpr std::size_t kNumArithmetics = kArithmetics.size();
constexpr const ArithmeticFacts& facts(Arithmetic arithmetic) {
  return kArithmetics[static_cast<std::size_t>(arithmetic)];
}

// A tensor of the checkpoint: [out, in] for a projection, [V, D] for the embedding and lm_head, [n] for a norm or a
// bias.
struct Weight {
  std::string_view name;  // without "model.layers.{i}."
  FixedList<Dim, 2> shape;
};

struct OperationRow {
  Op op;
  std::string_view name;  // without "model.layers.{i}."
  Scope scope;
  Arithmetic arithmetic;
  bool optional;                 // a fused engine need not materialise it
  std::optional<Op> fuses_into;  // engines compute this row together with the one that reads it
  // Where a model lacks this component, the row computes nothing and its tensor is its first input.
  Component component;
  FixedList<Dim, 4> shape;
  FixedList<Input, 3> inputs;
  FixedList<Weight, 2> weights;
  FixedList<RoundingPoint, 5> points;  // rounding points inside this operation, in order
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
inline constexpr Component kCore = Component::kCore, kQkvBias = Component::kQkvBias;
using A = Arithmetic;
}  // namespace operation_table_detail

// clang-format off
inline constexpr std::array<OperationRow, kNumOps> kOperationTable = [] {
  using namespace operation_table_detail;
  constexpr bool kOpt = true, kReq = false;
  constexpr std::nullopt_t kAlone = std::nullopt;
  return std::array<OperationRow, kNumOps>{{
    // op                     name                        scope    arithmetic       optional fuses into   component shape                         inputs                                                weights                                                     rounding points
    {kEmbedTokens,            "model.embed_tokens",       kBefore, A::kLookup,      kReq,    kAlone,      kCore,    kHiddenRows,                  {},                                                   {Weight{"model.embed_tokens.weight", {kVocab, kHidden}}},   {}},
    {kInputLayernorm,         "input_layernorm",          kL,      A::kNorm,        kReq,    kAlone,      kCore,    kHiddenRows,                  {kResidualStream},                                    {Weight{"input_layernorm.weight", {kHidden}}},              {P::kRmsNormNormalized}},
    {kQProjMatmul,            "self_attn.q_proj.matmul",  kL,      A::kProduct,     kOpt,    kQProj,      kCore,    kQRows,                       {Input{kInputLayernorm}},                             {Weight{"self_attn.q_proj.weight", {kQWidth, kHidden}}},    {P::kMatmulPartials, P::kMatmulBeforeBias}},
    {kKProjMatmul,            "self_attn.k_proj.matmul",  kL,      A::kProduct,     kOpt,    kKProj,      kCore,    kKvRows,                      {Input{kInputLayernorm}},                             {Weight{"self_attn.k_proj.weight", {kKvWidth, kHidden}}},   {P::kMatmulPartials, P::kMatmulBeforeBias}},
    {kVProjMatmul,            "self_attn.v_proj.matmul",  kL,      A::kProduct,     kOpt,    kVProj,      kCore,    kKvRows,                      {Input{kInputLayernorm}},                             {Weight{"self_attn.v_proj.weight", {kKvWidth, kHidden}}},   {P::kMatmulPartials, P::kMatmulBeforeBias}},
    {kQProj,                  "self_attn.q_proj",         kL,      A::kBias,        kReq,    kAlone,      kQkvBias, kQRows,                       {Input{kQProjMatmul}},                                {Weight{"self_attn.q_proj.bias", {kQWidth}}},               {}},
    {kKProj,                  "self_attn.k_proj",         kL,      A::kBias,        kReq,    kAlone,      kQkvBias, kKvRows,                      {Input{kKProjMatmul}},                                {Weight{"self_attn.k_proj.bias", {kKvWidth}}},              {}},
    {kVProj,                  "self_attn.v_proj",         kL,      A::kBias,        kReq,    kAlone,      kQkvBias, kKvRows,                      {Input{kVProjMatmul}},                                {Weight{"self_attn.v_proj.bias", {kKvWidth}}},              {}},
    {kQRope,                  "self_attn.q_rope",         kL,      A::kRotate,      kReq,    kAlone,      kCore,    {kB, kT, kQHeads, kHeadDim},  {Input{kQProj}},                                      {},                                                         {P::kRopeTable, P::kRopeProducts}},
    {kKRope,                  "self_attn.k_rope",         kL,      A::kRotate,      kReq,    kAlone,      kCore,    {kB, kT, kKvHeads, kHeadDim}, {Input{kKProj}},                                      {},                                                         {P::kRopeTable, P::kRopeProducts}},
    {kKCache,                 "self_attn.k_cache",        kL,      A::kAppend,      kOpt,    kAlone,      kCore,    kCacheShape,                  {Input{kKCache, From::kPreviousStep}, Input{kKRope}}, {},                                                         {P::kKvCache}},
    {kVCache,                 "self_attn.v_cache",        kL,      A::kAppend,      kOpt,    kAlone,      kCore,    kCacheShape,                  {Input{kVCache, From::kPreviousStep}, Input{kVProj}}, {},                                                         {P::kKvCache}},
    {kScores,                 "self_attn.scores",         kL,      A::kScores,      kOpt,    kProbs,      kCore,    kScoresShape,                 {Input{kQRope}, Input{kKCache}},                      {},                                                         {P::kKvCachePrefill, P::kAttentionQuery, P::kAttentionAccumulate, P::kAttentionScores, P::kAttentionScaledScores}},
    {kProbs,                  "self_attn.probs",          kL,      A::kSoftmax,     kOpt,    kAttnOutput, kCore,    kScoresShape,                 {Input{kScores}},                                     {},                                                         {P::kAttentionProbs}},
    {kAttnOutput,             "self_attn.attn_output",    kL,      A::kWeightedSum, kReq,    kAlone,      kCore,    kQRows,                       {Input{kProbs}, Input{kVCache}},                      {},                                                         {P::kKvCachePrefill, P::kAttentionAccumulate}},
    {kOProj,                  "self_attn.o_proj",         kL,      A::kProduct,     kReq,    kAlone,      kCore,    kHiddenRows,                  {Input{kAttnOutput}},                                 {Weight{"self_attn.o_proj.weight", {kHidden, kQWidth}}},    {P::kMatmulPartials}},
    {kResidMid,               "resid_mid",                kL,      A::kAdd,         kReq,    kAlone,      kCore,    kHiddenRows,                  {kResidualStream, Input{kOProj}},                     {},                                                         {}},
    {kPostAttentionLayernorm, "post_attention_layernorm", kL,      A::kNorm,        kReq,    kAlone,      kCore,    kHiddenRows,                  {Input{kResidMid}},                                   {Weight{"post_attention_layernorm.weight", {kHidden}}},     {P::kRmsNormNormalized}},
    {kGateProj,               "mlp.gate_proj",            kL,      A::kProduct,     kReq,    kAlone,      kCore,    kIntermediateRows,            {Input{kPostAttentionLayernorm}},                     {Weight{"mlp.gate_proj.weight", {kIntermediate, kHidden}}}, {P::kMatmulPartials}},
    {kUpProj,                 "mlp.up_proj",              kL,      A::kProduct,     kReq,    kAlone,      kCore,    kIntermediateRows,            {Input{kPostAttentionLayernorm}},                     {Weight{"mlp.up_proj.weight", {kIntermediate, kHidden}}},   {P::kMatmulPartials}},
    {kAct,                    "mlp.act",                  kL,      A::kGate,        kReq,    kAlone,      kCore,    kIntermediateRows,            {Input{kGateProj}, Input{kUpProj}},                   {},                                                         {P::kMlpSilu}},
    {kDownProj,               "mlp.down_proj",            kL,      A::kProduct,     kReq,    kAlone,      kCore,    kHiddenRows,                  {Input{kAct}},                                        {Weight{"mlp.down_proj.weight", {kHidden, kIntermediate}}}, {P::kMatmulPartials}},
    {kOutput,                 "output",                   kL,      A::kAdd,         kReq,    kAlone,      kCore,    kHiddenRows,                  {Input{kResidMid}, Input{kDownProj}},                 {},                                                         {}},
    {kNorm,                   "model.norm",               kAfter,  A::kNorm,        kReq,    kAlone,      kCore,    kHiddenRows,                  {kResidualStream},                                    {Weight{"model.norm.weight", {kHidden}}},                   {P::kRmsNormNormalized}},
    {kLmHead,                 "lm_head",                  kAfter,  A::kProduct,     kReq,    kAlone,      kCore,    {kB, kT, kVocab},             {Input{kNorm}},                                       {Weight{"lm_head.weight", {kVocab, kHidden}}},              {P::kMatmulPartials}},
  }};
}();
// clang-format on

constexpr const OperationRow& row(Op op) { return kOperationTable[static_cast<std::size_t>(op)]; }

constexpr bool tables_are_in_enum_order() {
  for (std::size_t i = 0; i < kNumOps; ++i) {
    if (static_cast<std::size_t>(kOperationTable[i].op) != i) return false;
  }
  for (std::size_t i = 0; i < kNumArithmetics; ++i) {
    if (static_cast<std::size_t>(kArithmetics[i].arithmetic) != i) return false;
  }
  return true;
}
static_assert(tables_are_in_enum_order(), "kOperationTable and kArithmetics must stand in the order of their enums");

constexpr Arithmetic arithmetic_of(Op op) { return row(op).arithmetic; }
// Whether the row does nothing but pass its first input on, or move it elsewhere.
constexpr bool only_moves(Op op) { return facts(row(op).arithmetic).moves; }
inline bool only_moves(Op op, const ModelConfig& config) { return only_moves(op) || !config.has(row(op).component); }
// Whether an engine may compute the row for the last token alone, and hand out [B,1,V]: the logits.
constexpr bool may_be_last_row_alone(Op op) { return row(op).shape[2] == Dim::kVocab; }

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
Shape weight_shape(Op op, std::size_t index, const ModelConfig& config);

// A weight that a model has.
struct ModelWeight {
  TensorId id;  // the first row that takes it
  std::size_t index = 0;
  std::string name;
  Shape shape;
};
// All of them in execution order, each once: tied embeddings have no weight of lm_head.
std::vector<ModelWeight> weights_of(const ModelConfig& config);

// The tensor that `input` of the row of `id` names, within the same step (From::kPreviousStep gives the tensor whose
// value of the step before is meant).
TensorId resolve(const Input& input, const TensorId& id, const ModelConfig& config);

// Shape of a row's output; `num_tokens` T, `valid_length` S.
Shape output_shape(Op op, const ModelConfig& config, std::int64_t batch, std::int64_t num_tokens,
                   std::int64_t valid_length);

// The tensors of one step in execution order. With `optional_too` false the rows marked optional are left out.
std::vector<TensorId> all_tensors(const ModelConfig& config, bool optional_too);

}  // namespace qdiff

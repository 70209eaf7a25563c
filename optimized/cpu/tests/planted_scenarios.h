// A run of every planted fault that shows it: which rows it changes, and the model, the value and the steps for that.
#pragma once

#include <optional>
#include <vector>

#include "harness/contract/fault_table.h"
#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu::testing {

inline constexpr std::int64_t kSpareSlots = 3;

// Inputs that bring out faults which ordinary ones hide.
enum class Inputs : std::uint8_t {
  kUsual,
  kLargeScores,  // some beyond exp's range in float32
  kLargeRows,    // squares whose sum float16 cannot hold
};

struct Scenario {
  FaultId id;
  std::vector<Op> rows;  // that the fault changes by itself
  std::optional<double> value = {};
  Inputs inputs = Inputs::kUsual;
  bool shows = true;
};

inline const std::vector<Op> kCaches = {Op::kKCache, Op::kVCache};
inline const std::vector<Op> kKeys = {Op::kKCache};
inline const std::vector<Op> kAttention = {Op::kAttnOutput};
inline const std::vector<Op> kRope = {Op::kQRope, Op::kKRope};
inline const std::vector<Op> kQkv = {Op::kQProj, Op::kKProj, Op::kVProj};
inline const std::vector<Op> kProjections = {Op::kQProj,    Op::kKProj,  Op::kVProj,   Op::kOProj,
                                             Op::kGateProj, Op::kUpProj, Op::kDownProj};
inline const std::vector<Op> kSums = {Op::kResidMid, Op::kOutput};
inline const std::vector<Op> kNorms = {Op::kInputLayernorm, Op::kPostAttentionLayernorm, Op::kNorm};
inline const std::vector<Op> kLayerNorms = {Op::kInputLayernorm, Op::kPostAttentionLayernorm};

inline const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> kScenarios = {
      {FaultId::kNoBatchStride, kCaches},
      {FaultId::kNoBatchStride, kCaches, 1.0},
      {FaultId::kNoHeadStride, kCaches},
      {FaultId::kNoLayerStride, kCaches},
      {FaultId::kHeadStrideIsTokens, kCaches},
      {FaultId::kPosMajor, kCaches},
      {FaultId::kBatchStrideOfOneToken, kCaches},
      {FaultId::kVIntoK, kCaches},
      {FaultId::kPadSlot, kCaches},
      {FaultId::kPadSlot, kCaches, -1.0, Inputs::kUsual, false},  // its slot is written anew before it is read
      {FaultId::kScale, kAttention},
      {FaultId::kNoScale, kAttention},
      {FaultId::kScaleHidden, kAttention},
      {FaultId::kScaleTwice, kAttention},
      {FaultId::kScaleAfter, kAttention},
      {FaultId::kNoMax, kAttention, {}, Inputs::kLargeScores},
      {FaultId::kSumFp16, kAttention},
      {FaultId::kQkFp16, kAttention},
      {FaultId::kTileMax, kAttention, 4.0},
      {FaultId::kTailZero, kAttention, 4.0},
      {FaultId::kTailZero, kAttention},
      {FaultId::kTheta, kRope},
      {FaultId::kInterleaved, kRope},
      {FaultId::kHalfSlice, kRope},
      {FaultId::kHalfSlice, kRope, 4.0},
      {FaultId::kSliceHidden, kRope},
      {FaultId::kQOnly, {Op::kKRope}},
      {FaultId::kKOnly, {Op::kQRope}},
      {FaultId::kNoRope, kRope},
      {FaultId::kRopeTwice, kRope},
      {FaultId::kReverse, kRope},
      {FaultId::kAfterCache, kKeys},
      {FaultId::kDecodePosZero, kRope},
      {FaultId::kDecodePosPlusOne, kRope},
      {FaultId::kChunkLocalPos, kRope},
      {FaultId::kTableBf16, kRope},
      {FaultId::kBatchPos, kRope},
      {FaultId::kWoRows, {Op::kOProj}},
      {FaultId::kWoCols, {Op::kOProj}},
      {FaultId::kWoCols, {Op::kOProj}, 16.0},
      {FaultId::kResidualLost, kSums},
      {FaultId::kResidualLost, kSums, 1.0},
      {FaultId::kNormIntoResidual, kSums},
      {FaultId::kDownInAct, {Op::kDownProj}},
      {FaultId::kDownInAct, {Op::kDownProj}, 16.0},
      {FaultId::kModulo, kAttention},
      {FaultId::kDivideByKv, kAttention},
      {FaultId::kGroupOffByOne, kAttention},
      {FaultId::kGroupOffByOne, kAttention, -1.0},
      {FaultId::kHeadZero, kAttention},
      {FaultId::kPrefillOnly, kAttention},
      {FaultId::kDecodeOnly, kAttention},
      {FaultId::kMissingQ, {Op::kQProj}},
      {FaultId::kMissingK, {Op::kKProj}},
      {FaultId::kMissingV, {Op::kVProj}},
      {FaultId::kMissingAll, kQkv},
      {FaultId::kPrefillMissing, kQkv},
      {FaultId::kDecodeMissing, kQkv},
      {FaultId::kRowAxis, kQkv},
      {FaultId::kBiasFirstRowOnly, kQkv},
      {FaultId::kKvSwapped, {Op::kKProj, Op::kVProj}},
      {FaultId::kLengthHidden, {Op::kVProj}},  // q and k end before column D
      {FaultId::kBiasFp16, kQkv},
      {FaultId::kBiasBf16, kQkv},
      {FaultId::kBiasInt8, kQkv},
      {FaultId::kBiasAfterRope, {Op::kQProj, Op::kKProj, Op::kQRope, Op::kKRope}},
      {FaultId::kTransposedQ, {Op::kQProj}},
      {FaultId::kTransposedK, {Op::kKProj}},
      {FaultId::kTransposedV, {Op::kVProj}},
      {FaultId::kTransposedO, {Op::kOProj}},
      {FaultId::kTransposedGate, {Op::kGateProj}},
      {FaultId::kTransposedUp, {Op::kUpProj}},
      {FaultId::kTransposedDown, {Op::kDownProj}},
      {FaultId::kLda, kProjections},
      {FaultId::kLda, kProjections, -1.0},
      {FaultId::kLda, kProjections, 8.0},
      {FaultId::kColumnMajorOut, kProjections},
      {FaultId::kPackedOrder, kQkv},
      {FaultId::kFirstTileOnly, {Op::kQProj, Op::kKProj, Op::kVProj, Op::kGateProj, Op::kUpProj, Op::kDownProj}},
      {FaultId::kFirstTileOnly, kProjections, 16.0},
      {FaultId::kAccBf16, kProjections},
      {FaultId::kOutFp16, kProjections},
      {FaultId::kWritePlusOne, kCaches},
      {FaultId::kWriteMinusOne, kCaches},
      {FaultId::kReadMinusOne, kAttention},
      {FaultId::kFirstToken, kAttention},
      {FaultId::kReadMinusFirst, kAttention},
      {FaultId::kReadPlusOne, kAttention, 0.0},
      {FaultId::kLengthCountsCurrent, {Op::kQRope, Op::kKRope, Op::kKCache, Op::kVCache, Op::kAttnOutput}},
      {FaultId::kEps, kNorms, 0.1},
      {FaultId::kLayerNorm, kNorms},
      {FaultId::kLayerNormFull, kNorms},
      {FaultId::kOnePlusWeight, kNorms},
      {FaultId::kNoWeight, kNorms},
      {FaultId::kNoSqrt, kNorms},
      {FaultId::kFp16Sum, kNorms},
      {FaultId::kFp16Sum, {Op::kInputLayernorm, Op::kNorm}, {}, Inputs::kLargeRows},
      {FaultId::kWeightFromOtherLayer, kLayerNorms},
      {FaultId::kWeightFromOtherLayer, kLayerNorms, -1.0},
      {FaultId::kFinalNormEps, {Op::kNorm}, 0.1},
      {FaultId::kNoMask, kAttention},
      {FaultId::kStrict, kAttention},
      {FaultId::kOneAhead, kAttention},
      {FaultId::kTopLeft, kAttention},
      {FaultId::kChunkOnly, kAttention},
      {FaultId::kPadVisible, kAttention},
      {FaultId::kPadQueryAxis, kAttention},
      {FaultId::kFiniteFp16, kAttention, -2.0},
      {FaultId::kWindow, kAttention, 4.0},
      {FaultId::kGateUpSwapped, {Op::kAct}},
      {FaultId::kNoSilu, {Op::kAct}},
      {FaultId::kWrongTokenEmbedding, {Op::kEmbedTokens}},
      {FaultId::kNoFinalNorm, {Op::kNorm}},
      {FaultId::kUntiedLmHead, {Op::kLmHead}},
      {FaultId::kLayerRepeated,
       {Op::kInputLayernorm, Op::kQProj, Op::kKProj, Op::kVProj, Op::kOProj, Op::kGateProj, Op::kUpProj,
        Op::kDownProj}},
  };
  return kScenarios;
}

// More elements than an attention row has (a head's output reaches into the next token's), an odd group.
inline ModelConfig config_of_scenarios() {
  ModelConfig config = small_config(6, 2, 8, 72, 80, false);
  config.num_layers = 3;
  return config;
}

inline RandomModel model_of(Inputs inputs) {
  const ModelConfig config = config_of_scenarios();
  RandomModel model(config, DType::kF32, 5);
  const auto scale = [&](const TensorId& id, double factor) {
    Tensor& tensor = model.tensor(weight_name(id, 0, config));
    for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, factor * tensor.at(i));
  };
  for (int layer = 0; layer < config.num_layers && inputs == Inputs::kLargeScores; ++layer) {
    for (Op op : {Op::kQProjMatmul, Op::kQProj, Op::kKProjMatmul, Op::kKProj}) scale({op, layer}, 5.0);
  }
  if (inputs == Inputs::kLargeRows) scale({Op::kEmbedTokens, kNoLayer}, 200.0);
  return model;
}

// Two chunks and two tokens more, the second row with a chunk's padding.
inline std::vector<Step> steps_of_scenarios() {
  return random_steps(config_of_scenarios(), {6, 5, 1, 1}, {0, 3, 2}, 3);
}

// H08.read_plus_one has what the row's memory holds.
inline double default_value(FaultId id) {
  const std::vector<double>& values = fault_facts(id).values;
  return values.empty() ? 0.0 : values.front();
}

}  // namespace qdiff::optimized::cpu::testing

// The ids of the bugs that can be planted, and what a planted kernel is told. Nothing of the contract is included here:
// nvcc compiles this.
#pragma once

namespace qdiff::optimized::cuda {

enum class FaultId : int {
  kNone,
  // H01: the cache address, as the writer computes it; the first three also as the reader does.
  kNoBatchStride,
  kNoHeadStride,
  kNoLayerStride,
  kPosMajor,
  kHeadStrideIsTokens,
  kVIntoK,
  // H02
  kScale,
  kNoScale,
  kScaleHidden,
  kScaleTwice,
  kScaleAfter,
  kNoMax,
  kTileMax,
  kTailZero,
  kQkFp16,
  // H03
  kTheta,
  kInterleaved,
  kHalfSlice,
  kQOnly,
  kKOnly,
  kNoRope,
  kRopeTwice,
  kReverse,
  kTableBf16,
  kDecodePosZero,
  kDecodePosPlusOne,
  kChunkLocalPos,
  kBatchPos,
  kAfterCache,
  // H04
  kResidualLost,
  kNormIntoResidual,
  kAttentionOverwritten,
  kActOverwritten,
  // H05
  kModulo,
  kDivideByKv,
  kGroupOffByOne,
  kHeadZero,
  kPrefillOnly,
  kDecodeOnly,
  // H06
  kMissingQ,
  kMissingK,
  kMissingV,
  kMissingAll,
  kPrefillMissing,
  kDecodeMissing,
  kBiasKvSwapped,
  kBiasFp16,
  kBiasBf16,
  kBiasAfterRope,
  kBiasFirstRowOnly,
  // H07
  kTransposedQ,
  kTransposedK,
  kTransposedV,
  kTransposedO,
  kTransposedGate,
  kTransposedUp,
  kTransposedDown,
  kLda,
  kPackedOrder,
  // H08
  kWritePlusOne,
  kWriteMinusOne,
  kReadMinusOne,
  kReadMinusFirst,
  kReadPlusOne,
  kFirstToken,
  // H09
  kEps,
  kLayerNorm,
  kLayerNormFull,
  kOnePlusWeight,
  kNoWeight,
  kNoSqrt,
  kWeightFromOtherLayer,
  kFinalNormEps,
  // H10
  kNoMask,
  kStrict,
  kOneAhead,
  kTopLeft,
  kChunkOnly,
  kPadVisible,
  // Outside the ten
  kGateUpSwapped,
  kNoSilu,
  kWrongTokenEmbedding,
  kNoFinalNorm,
  // Races: none of the catalogue's, for what comes out differs from run to run.
  kDelays,          // the right code, with the pauses that bring the two races out
  kMissingBarrier,  // decode attention: no barrier between the softmax's weights and their product with the values
  kMissingWait,     // o_proj of decode reads its input without waiting for the kernel in front
};

// What a planted kernel is told.
struct KernelFault {
  FaultId id = FaultId::kNone;
  float value = 0.0F;
  // On the device; counts the places where the planted code did something else than the right code.
  unsigned long long* executions = nullptr;
};

}  // namespace qdiff::optimized::cuda

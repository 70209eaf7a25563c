#include "optimized/cuda/faults.h"

#include <algorithm>
#include <set>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"

namespace qdiff::optimized::cuda {
namespace {

using enum FaultId;
using enum PlantedStage;

struct OfStage {
  PlantedStage stage;
  std::vector<FaultId> faults;
};

// A fault that several stages plant stands in several rows; one of the table that stands in none is refused.
const std::vector<OfStage>& stages() {
  static const std::vector<OfStage> kStages = {
      {kArgument,
       {kScale,
        kNoScale,
        kScaleHidden,
        kScaleTwice,
        kWoCols,
        kResidualLost,
        kNormIntoResidual,
        kDownInAct,
        kBiasFirstRowOnly,
        kTransposedQ,
        kTransposedK,
        kTransposedV,
        kTransposedO,
        kTransposedGate,
        kTransposedUp,
        kTransposedDown,
        kLda,
        kPackedOrder,
        kEps,
        kWeightFromOtherLayer,
        kFinalNormEps,
        kWrongTokenEmbedding,
        kNoFinalNorm}},
      {kAppend, {kNoBatchStride, kNoHeadStride,  kNoLayerStride,    kHeadStrideIsTokens,
                 kPosMajor,      kVIntoK,        kInterleaved,      kQOnly,
                 kKOnly,         kNoRope,        kRopeTwice,        kReverse,
                 kAfterCache,    kDecodePosZero, kDecodePosPlusOne, kChunkLocalPos,
                 kBatchPos,      kBiasAfterRope, kWritePlusOne,     kWriteMinusOne}},
      {kAttention, {kNoBatchStride, kNoHeadStride, kNoLayerStride, kScaleAfter,     kNoMax,         kQkFp16,
                    kTileMax,       kTailZero,     kModulo,        kDivideByKv,     kGroupOffByOne, kHeadZero,
                    kPrefillOnly,   kDecodeOnly,   kReadMinusOne,  kReadMinusFirst, kReadPlusOne,   kFirstToken,
                    kNoMask,        kStrict,       kOneAhead,      kTopLeft,        kChunkOnly,     kPadVisible}},
      {kCacheView, {kNoBatchStride, kNoHeadStride, kNoLayerStride}},
      {kNorm, {kLayerNorm, kLayerNormFull, kOnePlusWeight, kNoWeight, kNoSqrt}},
      {kMlp, {kGateUpSwapped, kNoSilu}},
      {kBiasVector,
       {kMissingQ, kMissingK, kMissingV, kMissingAll, kPrefillMissing, kDecodeMissing, kKvSwapped, kBiasFp16, kBiasBf16,
        kBiasAfterRope}},
      {kRopeTable, {kTheta, kHalfSlice, kTableBf16}},
  };
  return kStages;
}

}  // namespace

std::vector<FaultId> plantable_faults() {
  std::set<FaultId> ids;
  for (const OfStage& row : stages()) ids.insert(row.faults.begin(), row.faults.end());
  return {ids.begin(), ids.end()};
}

bool plants(FaultId id, PlantedStage stage) {
  return std::any_of(stages().begin(), stages().end(), [&](const OfStage& row) {
    return row.stage == stage && std::find(row.faults.begin(), row.faults.end(), id) != row.faults.end();
  });
}

void check_plantable(const Fault& fault) {
  const std::string id(name(fault.id));
  const std::vector<FaultId> plantable = plantable_faults();
  if (!std::binary_search(plantable.begin(), plantable.end(), fault.id)) {
    throw InputError("the cuda engine cannot plant the fault " + id +
                     "; the reference can, and docs/faults.md lists the others");
  }
  check_fault_value(fault);
  const auto only = [&](double value, const std::string& why) {
    if (fault.value && *fault.value != value) throw InputError("fault " + id + ": " + why);
  };
  if (fault.id == kTileMax || fault.id == kTailZero) {
    only(64.0, "the cuda engine's tiles have 64 keys; plant it without another value");
  }
  if (fault.id == kReadPlusOne) {
    only(0.0, "behind the last slot lies what the cuda engine's memory holds; plant it without a value");
  }
}

}  // namespace qdiff::optimized::cuda

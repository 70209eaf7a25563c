#include "optimized/cpu/planted_fault.h"

#include <algorithm>
#include <limits>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"

namespace qdiff::optimized::cpu {
namespace {

using enum FaultId;

// By the file whose stage computes with them. A bug of the table that stands in none of these rows is refused.
const std::vector<FaultId> kPlantable[] = {
    // planted_cache.cpp
    {kNoBatchStride, kNoHeadStride, kNoLayerStride, kHeadStrideIsTokens, kPosMajor, kBatchStrideOfOneToken, kVIntoK,
     kPadSlot, kWritePlusOne, kWriteMinusOne},
    // planted_attention.cpp
    {kScale,    kNoScale,  kScaleHidden,  kScaleTwice,     kScaleAfter,   kNoMax,      kSumFp16, kQkFp16,
     kTileMax,  kTailZero, kReadMinusOne, kReadMinusFirst, kReadPlusOne,  kFirstToken, kNoMask,  kStrict,
     kOneAhead, kTopLeft,  kChunkOnly,    kPadVisible,     kPadQueryAxis, kFiniteFp16, kWindow},
    // attention_stage.cpp
    {kModulo, kDivideByKv, kGroupOffByOne, kHeadZero, kPrefillOnly, kDecodeOnly},
    // planted_rope.cpp; the keys of kAfterCache in planted_cache.cpp, the length in those two as well
    {kTheta, kInterleaved, kHalfSlice, kSliceHidden, kQOnly, kKOnly, kNoRope, kRopeTwice, kReverse, kAfterCache,
     kDecodePosZero, kDecodePosPlusOne, kChunkLocalPos, kTableBf16, kBatchPos, kLengthCountsCurrent},
    // planted_in_place.cpp
    {kWoRows, kWoCols, kResidualLost, kNormIntoResidual, kDownInAct},
    // planted_product.cpp; what kBiasAfterRope adds later, in planted_rope.cpp
    {kMissingQ,       kMissingK,         kMissingV,       kMissingAll,   kPrefillMissing, kDecodeMissing,
     kRowAxis,        kBiasFirstRowOnly, kKvSwapped,      kLengthHidden, kBiasFp16,       kBiasBf16,
     kBiasInt8,       kBiasAfterRope,    kTransposedQ,    kTransposedK,  kTransposedV,    kTransposedO,
     kTransposedGate, kTransposedUp,     kTransposedDown, kLda,          kColumnMajorOut, kPackedOrder,
     kFirstTileOnly,  kAccBf16,          kOutFp16},
    // planted_norm.cpp
    {kEps, kLayerNorm, kLayerNormFull, kOnePlusWeight, kNoWeight, kNoSqrt, kFp16Sum, kWeightFromOtherLayer,
     kFinalNormEps, kNoFinalNorm},
    // planted_activation.cpp
    {kGateUpSwapped, kNoSilu},
    // session.cpp and mlp_stages.cpp: which weights, which token
    {kWrongTokenEmbedding, kUntiedLmHead, kLayerRepeated},
};

// Without a value, the slot that nothing wrote holds the session's poison.
double default_value(FaultId id) {
  if (id == kReadPlusOne) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<double>& values = fault_facts(id).values;
  return values.empty() ? 0.0 : values.front();
}

}  // namespace

std::vector<FaultId> plantable_faults() {
  std::vector<FaultId> ids;
  for (const auto& of_stage : kPlantable) ids.insert(ids.end(), of_stage.begin(), of_stage.end());
  std::ranges::sort(ids);
  return ids;
}

PlantedFault resolve_fault(const Fault& fault, const ModelConfig& config) {
  const std::vector<FaultId> plantable = plantable_faults();
  if (!std::ranges::binary_search(plantable, fault.id)) {
    throw InputError("the cpu engine cannot plant the fault " + std::string(name(fault.id)) +
                     "; the reference can, and docs/faults.md lists the others");
  }
  check_fault_value(fault);
  check_fault_layer(fault, config.num_layers);
  PlantedFault planted;
  planted.id = fault.id;
  planted.value = fault.value.value_or(default_value(fault.id));
  planted.layer = fault.layer;
  return planted;
}

}  // namespace qdiff::optimized::cpu

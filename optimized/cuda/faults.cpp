#include "optimized/cuda/faults.h"

#include <algorithm>

#include "harness/contract/error.h"

namespace qdiff::optimized::cuda {

const std::vector<FaultRow>& fault_rows() {
  using enum FaultId;
  static const std::vector<FaultRow> kRows = {
      {kNoBatchStride, "H01.no_batch_stride", 0.0},
      {kNoHeadStride, "H01.no_head_stride", {}},
      {kNoLayerStride, "H01.no_layer_stride", {}},
      {kPosMajor, "H01.pos_major", {}},
      {kHeadStrideIsTokens, "H01.head_stride_is_tokens", {}},
      {kVIntoK, "H01.v_into_k", {}},
      {kScale, "H02.scale", 1.01},
      {kNoScale, "H02.no_scale", {}},
      {kScaleHidden, "H02.scale_hidden", {}},
      {kScaleTwice, "H02.scale_twice", {}},
      {kScaleAfter, "H02.scale_after", {}},
      {kNoMax, "H02.no_max", {}},
      {kTileMax, "H02.tile_max", 64.0},
      {kTailZero, "H02.tail_zero", 64.0},
      {kQkFp16, "H02.qk_fp16", {}},
      {kTheta, "H03.theta", 1e4},
      {kInterleaved, "H03.interleaved", {}},
      {kHalfSlice, "H03.half_slice", 2.0},
      {kQOnly, "H03.q_only", {}},
      {kKOnly, "H03.k_only", {}},
      {kNoRope, "H03.none", {}},
      {kRopeTwice, "H03.twice", {}},
      {kReverse, "H03.reverse", {}},
      {kTableBf16, "H03.table_bf16", {}},
      {kDecodePosZero, "H03.decode_pos_zero", {}},
      {kDecodePosPlusOne, "H03.decode_pos_plus_one", {}},
      {kChunkLocalPos, "H03.chunk_local_pos", {}},
      {kBatchPos, "H03.batch_pos", {}},
      {kAfterCache, "H03.after_cache", {}},
      {kResidualLost, "H04.residual_lost", 2.0},
      {kNormIntoResidual, "H04.norm_into_residual", {}},
      {kAttentionOverwritten, "H04.wo_cols", 64.0},
      {kActOverwritten, "H04.down_in_act", 64.0},
      {kModulo, "H05.modulo", {}},
      {kDivideByKv, "H05.divide_by_kv", {}},
      {kGroupOffByOne, "H05.group_off_by_one", 1.0},
      {kHeadZero, "H05.head_zero", {}},
      {kPrefillOnly, "H05.prefill_only", {}},
      {kDecodeOnly, "H05.decode_only", {}},
      {kMissingQ, "H06.missing_q", {}},
      {kMissingK, "H06.missing_k", {}},
      {kMissingV, "H06.missing_v", {}},
      {kMissingAll, "H06.missing_all", {}},
      {kPrefillMissing, "H06.prefill_missing", {}},
      {kDecodeMissing, "H06.decode_missing", {}},
      {kBiasKvSwapped, "H06.kv_swapped", {}},
      {kBiasFp16, "H06.fp16", {}},
      {kBiasBf16, "H06.bf16", {}},
      {kBiasAfterRope, "H06.after_rope", {}},
      {kBiasFirstRowOnly, "H06.first_row_only", {}},
      {kTransposedQ, "H07.transposed_q", {}},
      {kTransposedK, "H07.transposed_k", {}},
      {kTransposedV, "H07.transposed_v", {}},
      {kTransposedO, "H07.transposed_o", {}},
      {kTransposedGate, "H07.transposed_gate", {}},
      {kTransposedUp, "H07.transposed_up", {}},
      {kTransposedDown, "H07.transposed_down", {}},
      {kLda, "H07.lda", 1.0},
      {kPackedOrder, "H07.packed_order", {}},
      {kWritePlusOne, "H08.write_plus_one", {}},
      {kWriteMinusOne, "H08.write_minus_one", {}},
      {kReadMinusOne, "H08.read_minus_one", {}},
      {kReadMinusFirst, "H08.read_minus_first", {}},
      {kReadPlusOne, "H08.read_plus_one", 0.0},
      {kFirstToken, "H08.first_token", {}},
      {kEps, "H09.eps", 1e-5},
      {kLayerNorm, "H09.layernorm", {}},
      {kLayerNormFull, "H09.layernorm_full", {}},
      {kOnePlusWeight, "H09.one_plus_weight", {}},
      {kNoWeight, "H09.no_weight", {}},
      {kNoSqrt, "H09.no_sqrt", {}},
      {kWeightFromOtherLayer, "H09.weight_from_other_layer", 1.0},
      {kFinalNormEps, "H09.final_norm_eps", 1e-5},
      {kNoMask, "H10.none", {}},
      {kStrict, "H10.strict", {}},
      {kOneAhead, "H10.one_ahead", {}},
      {kTopLeft, "H10.top_left", {}},
      {kChunkOnly, "H10.chunk_only", {}},
      {kPadVisible, "H10.pad_visible", {}},
      {kGateUpSwapped, "X.gate_up_swapped", {}},
      {kNoSilu, "X.no_silu", {}},
      {kWrongTokenEmbedding, "X.wrong_token_embedding", {}},
      {kNoFinalNorm, "X.no_final_norm", {}},
  };
  return kRows;
}

const std::vector<FaultRow>& race_rows() {
  using enum FaultId;
  static const std::vector<FaultRow> kRows = {{kDelays, "race.delays", {}},
                                              {kMissingBarrier, "race.missing_barrier", {}},
                                              {kMissingWait, "race.missing_wait", {}}};
  return kRows;
}

const FaultRow& find_fault(const Fault& fault, const std::vector<FaultRow>& rows) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const FaultRow& row) { return row.name == fault.id; });
  if (found == rows.end()) {
    std::string known;
    for (const FaultRow& row : rows) known += (known.empty() ? "" : ", ") + std::string(row.name);
    throw InputError("the cuda engine cannot plant \"" + fault.id + "\"; it can plant " + known);
  }
  check_fault_value(fault);
  const auto only = [&](double value, const std::string& why) {
    if (fault.value && *fault.value != value) throw InputError("fault " + fault.id + ": " + why);
  };
  if (found->id == FaultId::kTileMax || found->id == FaultId::kTailZero) {
    only(*found->default_value, "the cuda engine's tiles have 64 keys; plant it without another value");
  }
  if (found->id == FaultId::kReadPlusOne) {
    only(0.0, "behind the last slot lies what the cuda engine's memory holds; plant it without a value");
  }
  return *found;
}

}  // namespace qdiff::optimized::cuda

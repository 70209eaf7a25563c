#include "optimized/cpu/planted_fault.h"

#include <array>
#include <limits>

#include "harness/contract/error.h"

namespace qdiff::optimized::cpu {
namespace {

struct FaultFacts {
  std::string_view id;
  FaultId fault;
  double default_value = 0.0;
};

// Defaults are the first that docs/faults.md lists.
constexpr auto kFaults = std::to_array<FaultFacts>({
    {"H01.no_batch_stride", FaultId::kNoBatchStride, 0.0},
    {"H01.no_head_stride", FaultId::kNoHeadStride},
    {"H01.no_layer_stride", FaultId::kNoLayerStride},
    {"H01.head_stride_is_tokens", FaultId::kHeadStrideIsTokens},
    {"H01.pos_major", FaultId::kPosMajor},
    {"H01.batch_stride_of_one_token", FaultId::kBatchStrideOfOneToken},
    {"H01.v_into_k", FaultId::kVIntoK},
    {"H01.pad_slot", FaultId::kPadSlot, 0.0},
    {"H02.scale", FaultId::kScale, 1.01},
    {"H02.no_scale", FaultId::kNoScale},
    {"H02.scale_hidden", FaultId::kScaleHidden},
    {"H02.scale_twice", FaultId::kScaleTwice},
    {"H02.scale_after", FaultId::kScaleAfter},
    {"H02.no_max", FaultId::kNoMax},
    {"H02.sum_fp16", FaultId::kSumFp16},
    {"H02.qk_fp16", FaultId::kQkFp16},
    {"H02.tile_max", FaultId::kTileMax, 64.0},
    {"H02.tail_zero", FaultId::kTailZero, 64.0},
    {"H03.theta", FaultId::kTheta, 1e4},
    {"H03.interleaved", FaultId::kInterleaved},
    {"H03.half_slice", FaultId::kHalfSlice, 2.0},
    {"H03.slice_hidden", FaultId::kSliceHidden},
    {"H03.q_only", FaultId::kQOnly},
    {"H03.k_only", FaultId::kKOnly},
    {"H03.none", FaultId::kNoRope},
    {"H03.twice", FaultId::kRopeTwice},
    {"H03.reverse", FaultId::kReverse},
    {"H03.after_cache", FaultId::kAfterCache},
    {"H03.decode_pos_zero", FaultId::kDecodePosZero},
    {"H03.decode_pos_plus_one", FaultId::kDecodePosPlusOne},
    {"H03.chunk_local_pos", FaultId::kChunkLocalPos},
    {"H03.table_bf16", FaultId::kTableBf16},
    {"H03.batch_pos", FaultId::kBatchPos},
    {"H04.wo_rows", FaultId::kWoRows},
    {"H04.wo_cols", FaultId::kWoCols, 64.0},
    {"H04.residual_lost", FaultId::kResidualLost, 2.0},
    {"H04.norm_into_residual", FaultId::kNormIntoResidual},
    {"H04.down_in_act", FaultId::kDownInAct, 64.0},
    {"H05.modulo", FaultId::kModulo},
    {"H05.divide_by_kv", FaultId::kDivideByKv},
    {"H05.group_off_by_one", FaultId::kGroupOffByOne, 1.0},
    {"H05.head_zero", FaultId::kHeadZero},
    {"H05.prefill_only", FaultId::kPrefillOnly},
    {"H05.decode_only", FaultId::kDecodeOnly},
    {"H06.missing_q", FaultId::kMissingQ},
    {"H06.missing_k", FaultId::kMissingK},
    {"H06.missing_v", FaultId::kMissingV},
    {"H06.missing_all", FaultId::kMissingAll},
    {"H06.prefill_missing", FaultId::kPrefillMissing},
    {"H06.decode_missing", FaultId::kDecodeMissing},
    {"H06.row_axis", FaultId::kRowAxis},
    {"H06.first_row_only", FaultId::kBiasFirstRowOnly},
    {"H06.kv_swapped", FaultId::kKvSwapped},
    {"H06.length_hidden", FaultId::kLengthHidden},
    {"H06.fp16", FaultId::kBiasFp16},
    {"H06.bf16", FaultId::kBiasBf16},
    {"H06.int8", FaultId::kBiasInt8},
    {"H06.after_rope", FaultId::kBiasAfterRope},
    {"H07.transposed_q", FaultId::kTransposedQ},
    {"H07.transposed_k", FaultId::kTransposedK},
    {"H07.transposed_v", FaultId::kTransposedV},
    {"H07.transposed_o", FaultId::kTransposedO},
    {"H07.transposed_gate", FaultId::kTransposedGate},
    {"H07.transposed_up", FaultId::kTransposedUp},
    {"H07.transposed_down", FaultId::kTransposedDown},
    {"H07.lda", FaultId::kLda, 1.0},
    {"H07.column_major_out", FaultId::kColumnMajorOut},
    {"H07.packed_order", FaultId::kPackedOrder},
    {"H07.first_tile_only", FaultId::kFirstTileOnly, 64.0},
    {"H07.acc_bf16", FaultId::kAccBf16, 32.0},
    {"H07.out_fp16", FaultId::kOutFp16},
    {"H08.write_plus_one", FaultId::kWritePlusOne},
    {"H08.write_minus_one", FaultId::kWriteMinusOne},
    {"H08.read_minus_one", FaultId::kReadMinusOne},
    {"H08.first_token", FaultId::kFirstToken},
    {"H08.read_minus_first", FaultId::kReadMinusFirst},
    // Without a value, the slot that nothing wrote holds the session's poison.
    {"H08.read_plus_one", FaultId::kReadPlusOne, std::numeric_limits<double>::quiet_NaN()},
    {"H08.length_counts_current", FaultId::kLengthCountsCurrent},
    {"H09.eps", FaultId::kEps, 1e-5},
    {"H09.layernorm", FaultId::kLayerNorm},
    {"H09.layernorm_full", FaultId::kLayerNormFull},
    {"H09.one_plus_weight", FaultId::kOnePlusWeight},
    {"H09.no_weight", FaultId::kNoWeight},
    {"H09.no_sqrt", FaultId::kNoSqrt},
    {"H09.fp16_sum", FaultId::kFp16Sum},
    {"H09.weight_from_other_layer", FaultId::kWeightFromOtherLayer, 1.0},
    {"H09.final_norm_eps", FaultId::kFinalNormEps, 1e-5},
    {"H10.none", FaultId::kNoMask},
    {"H10.strict", FaultId::kStrict},
    {"H10.one_ahead", FaultId::kOneAhead},
    {"H10.top_left", FaultId::kTopLeft},
    {"H10.chunk_only", FaultId::kChunkOnly},
    {"H10.pad_visible", FaultId::kPadVisible},
    {"H10.pad_query_axis", FaultId::kPadQueryAxis},
    {"H10.finite_fp16", FaultId::kFiniteFp16, -65504.0},
    {"H10.window", FaultId::kWindow, 4096.0},
    {"X.gate_up_swapped", FaultId::kGateUpSwapped},
    {"X.no_silu", FaultId::kNoSilu},
    {"X.wrong_token_embedding", FaultId::kWrongTokenEmbedding},
    {"X.no_final_norm", FaultId::kNoFinalNorm},
    {"X.untied_lm_head", FaultId::kUntiedLmHead},
    {"X.layer_repeated", FaultId::kLayerRepeated},
});

}  // namespace

std::vector<std::string> plantable_fault_ids() {
  std::vector<std::string> ids;
  for (const FaultFacts& facts : kFaults) ids.emplace_back(facts.id);
  return ids;
}

PlantedFault resolve_fault(const Fault& fault, const ModelConfig& config) {
  const FaultFacts* found = nullptr;
  std::string known;
  for (const FaultFacts& facts : kFaults) {
    if (facts.id == fault.id) found = &facts;
    known += (known.empty() ? "" : ", ") + std::string(facts.id);
  }
  if (found == nullptr) {
    throw InputError("the cpu engine cannot plant the fault \"" + fault.id + "\"; it can plant " + known);
  }
  PlantedFault planted;
  planted.id = found->fault;
  check_fault_value(fault);
  planted.value = fault.value.value_or(found->default_value);
  if (fault.layer && (*fault.layer < 0 || *fault.layer >= config.num_layers)) {
    throw InputError("fault " + fault.id + ": there is no layer " + std::to_string(*fault.layer) +
                     "; the model's layers are 0 to " + std::to_string(config.num_layers - 1));
  }
  planted.layer = fault.layer;
  return planted;
}

}  // namespace qdiff::optimized::cpu

// A run of every planted fault that shows it: which rows it changes, and the model, the value and the steps for that.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

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
  std::string id;
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
      {"H01.no_batch_stride", kCaches},
      {"H01.no_batch_stride", kCaches, 1.0},
      {"H01.no_head_stride", kCaches},
      {"H01.no_layer_stride", kCaches},
      {"H01.head_stride_is_tokens", kCaches},
      {"H01.pos_major", kCaches},
      {"H01.batch_stride_of_one_token", kCaches},
      {"H01.v_into_k", kCaches},
      {"H01.pad_slot", kCaches},
      {"H01.pad_slot", kCaches, -1.0, Inputs::kUsual, false},  // its slot is written anew before it is read
      {"H02.scale", kAttention},
      {"H02.no_scale", kAttention},
      {"H02.scale_hidden", kAttention},
      {"H02.scale_twice", kAttention},
      {"H02.scale_after", kAttention},
      {"H02.no_max", kAttention, {}, Inputs::kLargeScores},
      {"H02.sum_fp16", kAttention},
      {"H02.qk_fp16", kAttention},
      {"H02.tile_max", kAttention, 4.0},
      {"H02.tail_zero", kAttention, 4.0},
      {"H02.tail_zero", kAttention},
      {"H03.theta", kRope},
      {"H03.interleaved", kRope},
      {"H03.half_slice", kRope},
      {"H03.half_slice", kRope, 4.0},
      {"H03.slice_hidden", kRope},
      {"H03.q_only", {Op::kKRope}},
      {"H03.k_only", {Op::kQRope}},
      {"H03.none", kRope},
      {"H03.twice", kRope},
      {"H03.reverse", kRope},
      {"H03.after_cache", kKeys},
      {"H03.decode_pos_zero", kRope},
      {"H03.decode_pos_plus_one", kRope},
      {"H03.chunk_local_pos", kRope},
      {"H03.table_bf16", kRope},
      {"H03.batch_pos", kRope},
      {"H04.wo_rows", {Op::kOProj}},
      {"H04.wo_cols", {Op::kOProj}},
      {"H04.wo_cols", {Op::kOProj}, 16.0},
      {"H04.residual_lost", kSums},
      {"H04.residual_lost", kSums, 1.0},
      {"H04.norm_into_residual", kSums},
      {"H04.down_in_act", {Op::kDownProj}},
      {"H04.down_in_act", {Op::kDownProj}, 16.0},
      {"H05.modulo", kAttention},
      {"H05.divide_by_kv", kAttention},
      {"H05.group_off_by_one", kAttention},
      {"H05.group_off_by_one", kAttention, -1.0},
      {"H05.head_zero", kAttention},
      {"H05.prefill_only", kAttention},
      {"H05.decode_only", kAttention},
      {"H06.missing_q", {Op::kQProj}},
      {"H06.missing_k", {Op::kKProj}},
      {"H06.missing_v", {Op::kVProj}},
      {"H06.missing_all", kQkv},
      {"H06.prefill_missing", kQkv},
      {"H06.decode_missing", kQkv},
      {"H06.row_axis", kQkv},
      {"H06.first_row_only", kQkv},
      {"H06.kv_swapped", {Op::kKProj, Op::kVProj}},
      {"H06.length_hidden", {Op::kVProj}},  // q and k end before column D
      {"H06.fp16", kQkv},
      {"H06.bf16", kQkv},
      {"H06.int8", kQkv},
      {"H06.after_rope", {Op::kQProj, Op::kKProj, Op::kQRope, Op::kKRope}},
      {"H07.transposed_q", {Op::kQProj}},
      {"H07.transposed_k", {Op::kKProj}},
      {"H07.transposed_v", {Op::kVProj}},
      {"H07.transposed_o", {Op::kOProj}},
      {"H07.transposed_gate", {Op::kGateProj}},
      {"H07.transposed_up", {Op::kUpProj}},
      {"H07.transposed_down", {Op::kDownProj}},
      {"H07.lda", kProjections},
      {"H07.lda", kProjections, -1.0},
      {"H07.lda", kProjections, 8.0},
      {"H07.column_major_out", kProjections},
      {"H07.packed_order", kQkv},
      {"H07.first_tile_only", {Op::kQProj, Op::kKProj, Op::kVProj, Op::kGateProj, Op::kUpProj, Op::kDownProj}},
      {"H07.first_tile_only", kProjections, 16.0},
      {"H07.acc_bf16", kProjections},
      {"H07.out_fp16", kProjections},
      {"H08.write_plus_one", kCaches},
      {"H08.write_minus_one", kCaches},
      {"H08.read_minus_one", kAttention},
      {"H08.first_token", kAttention},
      {"H08.read_minus_first", kAttention},
      {"H08.read_plus_one", kAttention, 0.0},
      {"H08.length_counts_current", {Op::kQRope, Op::kKRope, Op::kKCache, Op::kVCache, Op::kAttnOutput}},
      {"H09.eps", kNorms, 0.1},
      {"H09.layernorm", kNorms},
      {"H09.layernorm_full", kNorms},
      {"H09.one_plus_weight", kNorms},
      {"H09.no_weight", kNorms},
      {"H09.no_sqrt", kNorms},
      {"H09.fp16_sum", kNorms},
      {"H09.fp16_sum", {Op::kInputLayernorm, Op::kNorm}, {}, Inputs::kLargeRows},
      {"H09.weight_from_other_layer", kLayerNorms},
      {"H09.weight_from_other_layer", kLayerNorms, -1.0},
      {"H09.final_norm_eps", {Op::kNorm}, 0.1},
      {"H10.none", kAttention},
      {"H10.strict", kAttention},
      {"H10.one_ahead", kAttention},
      {"H10.top_left", kAttention},
      {"H10.chunk_only", kAttention},
      {"H10.pad_visible", kAttention},
      {"H10.pad_query_axis", kAttention},
      {"H10.finite_fp16", kAttention, -2.0},
      {"H10.window", kAttention, 4.0},
      {"X.gate_up_swapped", {Op::kAct}},
      {"X.no_silu", {Op::kAct}},
      {"X.wrong_token_embedding", {Op::kEmbedTokens}},
      {"X.no_final_norm", {Op::kNorm}},
      {"X.untied_lm_head", {Op::kLmHead}},
      {"X.layer_repeated",
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

inline double default_value(const std::string& id) {
  static const std::map<std::string, double> kValues = {
      {"H02.scale", 1.01}, {"H02.tail_zero", 64},    {"H03.theta", 1e4},          {"H03.half_slice", 2},
      {"H04.wo_cols", 64}, {"H04.residual_lost", 2}, {"H04.down_in_act", 64},     {"H05.group_off_by_one", 1},
      {"H07.lda", 1},      {"H07.acc_bf16", 32},     {"H07.first_tile_only", 64}, {"H09.weight_from_other_layer", 1},
      {"H10.window", 4096}};
  const auto found = kValues.find(id);
  return found == kValues.end() ? 0.0 : found->second;
}

}  // namespace qdiff::optimized::cpu::testing

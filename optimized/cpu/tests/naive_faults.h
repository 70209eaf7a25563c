// The fault catalogue in double, one plain loop after another, written from docs/faults.md and nothing else. Rows that
// a fault leaves alone are those of NaiveForward.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>

#include "optimized/cpu/tests/naive_forward.h"

namespace qdiff::optimized::cpu::testing {

inline constexpr double kUnknown = HUGE_VAL;  // as a magnitude: nothing is expected of the element

class NaiveFault : public NaiveForward {
 public:
  // Without an id it computes what right code does.
  NaiveFault(RandomModel& model, DType dtype, std::optional<FaultId> id, double value, std::int64_t capacity)
      : NaiveForward(model, dtype), id_(id), value_(value), whole_(std::llround(value)), C_(capacity) {}

  // The input `get` for H04.wo_rows includes the row itself: later tokens read what earlier ones wrote.
  Naive evaluate(const TensorKey& key, const std::vector<Step>& steps, const Get& get) const {
    const Step& step = steps[static_cast<std::size_t>(key.step)];
    const int layer = key.id.layer;
    const auto in = [&](Op op) { return get({key.step, {op, layer}}); };
    const auto residual = [&] { return get({key.step, resolve({Op::kOutput, From::kResidual}, key.id, c_)}); };
    switch (key.id.op) {
      case Op::kEmbedTokens:
        return embed_wrong(step);
      case Op::kInputLayernorm:
      case Op::kNorm:
        return norm_wrong(residual(), key.id);
      case Op::kPostAttentionLayernorm:
        return norm_wrong(in(Op::kResidMid), key.id);
      case Op::kQProj:
        return with_bias(product(in(Op::kInputLayernorm), Op::kQProjMatmul, layer), Op::kQProj, layer, step);
      case Op::kKProj:
        return with_bias(product(in(Op::kInputLayernorm), Op::kKProjMatmul, layer), Op::kKProj, layer, step);
      case Op::kVProj:
        return with_bias(product(in(Op::kInputLayernorm), Op::kVProjMatmul, layer), Op::kVProj, layer, step);
      case Op::kQRope:
        return rope_wrong(in(Op::kQProj), step, Op::kQProj, layer);
      case Op::kKRope:
        return rope_wrong(in(Op::kKProj), step, Op::kKProj, layer);
      case Op::kKCache:
      case Op::kVCache:
        return cache_view(memory(key.id.op == Op::kKCache, layer, key.step, steps, get), step);
      case Op::kAttnOutput:
        return attention_wrong(in(Op::kQRope), in(Op::kKRope), memory(true, layer, key.step, steps, get),
                               memory(false, layer, key.step, steps, get), step, first_decode(key.step, steps));
      case Op::kOProj:
        return in_place(in(Op::kAttnOutput), in(Op::kOProj), Op::kOProj, layer);
      case Op::kDownProj:
        return in_place(in(Op::kAct), in(Op::kDownProj), Op::kDownProj, layer);
      case Op::kGateProj:
      case Op::kUpProj:
        return product(in(Op::kPostAttentionLayernorm), key.id.op, layer);
      case Op::kAct:
        return activate_wrong(in(Op::kGateProj), in(Op::kUpProj));
      case Op::kResidMid:
        return add_wrong(residual(), in(Op::kInputLayernorm), in(Op::kOProj));
      case Op::kOutput:
        return add_wrong(in(Op::kResidMid), in(Op::kPostAttentionLayernorm), in(Op::kDownProj));
      case Op::kLmHead: {
        const Op weights = is(FaultId::kUntiedLmHead) ? Op::kEmbedTokens : Op::kLmHead;
        return linear_of(get({key.step, {Op::kNorm, kNoLayer}}), weight({weights, kNoLayer}), c_.vocab, c_.hidden);
      }
      default:
        throw std::logic_error("not a tensor that the engine hands out");
    }
  }

 private:
  using Int = std::int64_t;
  static std::size_t at(Int index) { return static_cast<std::size_t>(index); }
  bool is(FaultId id) const { return id_ == id; }
  int weights_layer(int layer) const { return is(FaultId::kLayerRepeated) ? std::max(layer - 1, 0) : layer; }
  const Values& weight_of(Op op, int layer) const { return weight({op, weights_layer(layer)}); }
  static int first_decode(int step, const std::vector<Step>& steps) {
    return std::none_of(steps.begin(), steps.begin() + step, [](const Step& s) { return s.phase == Phase::kDecode; });
  }

  Naive embed_wrong(Step step) const {
    for (auto& tokens : step.tokens) {
      for (std::int32_t& token : tokens) {
        if (is(FaultId::kWrongTokenEmbedding)) token = static_cast<std::int32_t>((token + 1) % c_.vocab);
      }
    }
    return embed(step);
  }

  // ---- Norms: H09 -------------------------------------------------------------------------------------------------

  Naive norm_wrong(const Values& x, const TensorId& id) const {
    const Int L = c_.num_layers;
    Values w = id.op == Op::kNorm ? weight(id) : weight_of(id.op, id.layer);
    if (is(FaultId::kWeightFromOtherLayer) && id.op != Op::kNorm) {
      w = weight({id.op, static_cast<int>(((id.layer + whole_) % L + L) % L)});
    }
    if (is(FaultId::kOnePlusWeight)) {
      for (double& each : w) each += 1.0;
    }
    if (is(FaultId::kNoWeight)) w.assign(w.size(), 1.0);
    double eps = c_.rms_norm_eps;
    if (is(FaultId::kEps) || (is(FaultId::kFinalNormEps) && id.op == Op::kNorm)) eps = value_;
    const std::size_t n = w.size();
    Naive out;
    for (std::size_t first = 0; first < x.size(); first += n) {
      double squares = 0.0;
      double mean = 0.0;
      double mean_magnitude = 0.0;
      for (std::size_t i = 0; i < n; ++i) {
        squares += x[first + i] * x[first + i];
        mean += x[first + i] / static_cast<double>(n);
        mean_magnitude += std::fabs(x[first + i]) / static_cast<double>(n);
      }
      if (is(FaultId::kLayerNormFull)) {
        squares = 0.0;
        for (std::size_t i = 0; i < n; ++i) squares += (x[first + i] - mean) * (x[first + i] - mean);
      }
      if (is(FaultId::kFp16Sum)) squares = round_to(DType::kF16, squares);
      const bool centred = is(FaultId::kLayerNorm) || is(FaultId::kLayerNormFull);
      double divisor = squares / static_cast<double>(n) + eps;
      if (!is(FaultId::kNoSqrt)) divisor = std::sqrt(divisor);
      for (std::size_t i = 0; i < n; ++i) {
        double value = (x[first + i] - (centred ? mean : 0.0)) / divisor * w[i];
        double magnitude = std::fabs(value) + (centred ? std::fabs(mean_magnitude / divisor * w[i]) : 0.0);
        if (is(FaultId::kNoFinalNorm) && id.op == Op::kNorm) {
          value = x[first + i];
          magnitude = 0.0;
        }
        out.value.push_back(value);
        out.magnitude.push_back(magnitude);
      }
    }
    return out;
  }

  // ---- Projections: H07, H06, H04 ---------------------------------------------------------------------------------

  // x [M, in] . w [out, in]^T.
  static Naive linear_of(const Values& x, const Values& w, Int outs, Int ins) {
    Naive out;
    for (std::size_t first = 0; first < x.size(); first += at(ins)) {
      for (Int j = 0; j < outs; ++j) {
        double total = 0.0;
        double magnitude = 0.0;
        for (Int i = 0; i < ins; ++i) {
          total += w[at(j * ins + i)] * x[first + at(i)];
          magnitude += std::fabs(w[at(j * ins + i)] * x[first + at(i)]);
        }
        out.value.push_back(total);
        out.magnitude.push_back(magnitude);
      }
    }
    return out;
  }

  bool is_transposed(Op op) const {
    return (is(FaultId::kTransposedQ) && op == Op::kQProjMatmul) ||
           (is(FaultId::kTransposedK) && op == Op::kKProjMatmul) ||
           (is(FaultId::kTransposedV) && op == Op::kVProjMatmul) || (is(FaultId::kTransposedO) && op == Op::kOProj) ||
           (is(FaultId::kTransposedGate) && op == Op::kGateProj) || (is(FaultId::kTransposedUp) && op == Op::kUpProj) ||
           (is(FaultId::kTransposedDown) && op == Op::kDownProj);
  }

  // The weight as it is read, row-major [out, in]; NaN where it reads beyond the end.
  Values weight_as_read(Op op, int layer, Int outs, Int ins) const {
    Values w = weight_of(op, layer);
    const Values right = w;
    for (Int j = 0; j < outs; ++j) {
      for (Int i = 0; i < ins; ++i) {
        if (is_transposed(op)) w[at(j * ins + i)] = right[at(i * outs + j)];
        if (is(FaultId::kLda)) {
          const Int from = j * (ins + whole_) + i;
          w[at(j * ins + i)] = from < outs * ins ? right[at(from)] : std::nan("");
        }
      }
    }
    if (is(FaultId::kPackedOrder)) {
      const Values& q = weight_of(Op::kQProjMatmul, layer);
      const Values& k = weight_of(Op::kKProjMatmul, layer);
      const Values& v = weight_of(Op::kVProjMatmul, layer);
      Values fused = q;
      fused.insert(fused.end(), k.begin(), k.end());
      fused.insert(fused.end(), v.begin(), v.end());
      if (op == Op::kKProjMatmul) w.assign(fused.begin(), fused.begin() + std::ssize(k));
      if (op == Op::kVProjMatmul)
        w.assign(fused.begin() + std::ssize(k), fused.begin() + std::ssize(k) + std::ssize(v));
      if (op == Op::kQProjMatmul) w.assign(fused.end() - std::ssize(q), fused.end());
    }
    return w;
  }

  // Before any bias.
  Naive product(const Values& x, Op op, int layer) const {
    const Shape shape = weight_shape(op, 0, c_);
    const Int outs = shape[0];
    const Int ins = shape[1];
    const Int M = std::ssize(x) / ins;
    Values& w = weights_as_read_[{op, layer}];
    if (w.empty()) w = weight_as_read(op, layer, outs, ins);
    Naive out;
    for (Int m = 0; m < M; ++m) {
      for (Int j = 0; j < outs; ++j) {
        double total = 0.0;
        double magnitude = 0.0;
        for (Int i = 0; i < ins; ++i) {
          const double term = w[at(j * ins + i)] * x[at(m * ins + (is(FaultId::kFirstTileOnly) ? i % whole_ : i))];
          total += term;
          magnitude += std::fabs(term);
          const bool block_ends = is(FaultId::kAccBf16) && ((i + 1) % whole_ == 0 || i + 1 == ins);
          if (block_ends) total = round_to(DType::kBF16, total);
        }
        if (is(FaultId::kOutFp16)) total = round_to(DType::kF16, total);
        out.value.push_back(std::isnan(total) ? 0.0 : total);
        out.magnitude.push_back(std::isnan(total) ? kUnknown : magnitude);
      }
    }
    if (is(FaultId::kColumnMajorOut)) {
      const Naive right = out;
      for (Int m = 0; m < M; ++m) {
        for (Int j = 0; j < outs; ++j) {
          out.value[at(j * M + m)] = right.value[at(m * outs + j)];
          out.magnitude[at(j * M + m)] = right.magnitude[at(m * outs + j)];
        }
      }
    }
    return out;
  }

  Values bias_as_read(Op op, int layer, Phase phase) const {
    Values q = weight_of(Op::kQProj, layer);
    Values k = weight_of(Op::kKProj, layer);
    Values v = weight_of(Op::kVProj, layer);
    if (is(FaultId::kKvSwapped)) std::swap(k, v);
    if (is(FaultId::kLengthHidden)) {
      Values fused = q;
      fused.insert(fused.end(), k.begin(), k.end());
      fused.insert(fused.end(), v.begin(), v.end());
      const Values right = fused;
      for (std::size_t c = 0; c < fused.size(); ++c) fused[c] = right[c % at(c_.hidden)];
      q.assign(fused.begin(), fused.begin() + std::ssize(q));
      k.assign(fused.begin() + std::ssize(q), fused.begin() + std::ssize(q) + std::ssize(k));
      v.assign(fused.end() - std::ssize(v), fused.end());
    }
    Values b = op == Op::kQProj ? q : op == Op::kKProj ? k : v;
    double largest = 0.0;
    for (double each : b) largest = std::max(largest, std::fabs(each));
    for (double& each : b) {
      if (is(FaultId::kBiasFp16)) each = round_to(DType::kF16, each);
      if (is(FaultId::kBiasBf16)) each = round_to(DType::kBF16, each);
      if (is(FaultId::kBiasInt8)) each = std::nearbyint(each / (largest / 127.0)) * (largest / 127.0);
    }
    const bool missing = is(FaultId::kMissingAll) || (is(FaultId::kMissingQ) && op == Op::kQProj) ||
                         (is(FaultId::kMissingK) && op == Op::kKProj) || (is(FaultId::kMissingV) && op == Op::kVProj) ||
                         (is(FaultId::kPrefillMissing) && phase == Phase::kPrefill) ||
                         (is(FaultId::kDecodeMissing) && phase == Phase::kDecode) ||
                         (is(FaultId::kBiasAfterRope) && op != Op::kVProj);
    if (missing) b.assign(b.size(), 0.0);
    return b;
  }

  Naive with_bias(Naive out, Op op, int layer, const Step& step) const {
    const Values b = bias_as_read(op, layer, step.phase);
    for (std::size_t e = 0; e < out.value.size(); ++e) {
      const std::size_t t = e / b.size() % at(step.num_tokens());
      const bool none = is(FaultId::kBiasFirstRowOnly) && e >= b.size();
      const double bias = none ? 0.0 : b[is(FaultId::kRowAxis) ? t : e % b.size()];
      out.value[e] += bias;
      out.magnitude[e] += std::fabs(bias);
    }
    return out;
  }

  Naive in_place(Values x, const Values& written, Op op, int layer) const {
    const Int outs = weight_shape(op, 0, c_)[0];
    const Int ins = weight_shape(op, 0, c_)[1];
    const Int M = std::ssize(x) / ins;
    const bool by_columns = is(op == Op::kOProj ? FaultId::kWoCols : FaultId::kDownInAct);
    if (!by_columns && !(is(FaultId::kWoRows) && op == Op::kOProj)) return product(x, op, layer);
    const Values& w = weight_of(op, layer);
    Naive out;
    if (by_columns) {
      out.value.resize(at(M * outs));
      out.magnitude.resize(at(M * outs));
      for (Int first = 0; first < outs; first += whole_) {
        const Naive all = linear_of(x, w, outs, ins);
        for (Int m = 0; m < M; ++m) {
          for (Int j = first; j < std::min(first + whole_, outs); ++j) {
            out.value[at(m * outs + j)] = all.value[at(m * outs + j)];
            out.magnitude[at(m * outs + j)] = all.magnitude[at(m * outs + j)];
            if (j < ins) x[at(m * ins + j)] = written[at(m * outs + j)];
          }
        }
      }
      return out;
    }
    for (Int m = 0; m < M; ++m) {
      const Values row(x.begin() + m * ins, x.begin() + (m + 1) * ins);
      const Naive one = linear_of(row, w, outs, ins);
      out.value.insert(out.value.end(), one.value.begin(), one.value.end());
      out.magnitude.insert(out.magnitude.end(), one.magnitude.begin(), one.magnitude.end());
      for (Int j = 0; j < outs && m * outs + j < M * ins; ++j) x[at(m * outs + j)] = written[at(m * outs + j)];
    }
    return out;
  }

  Naive add_wrong(const Values& residual, const Values& norm, const Values& product) const {
    if (is(FaultId::kNormIntoResidual)) return sum(norm, product);
    if (!is(FaultId::kResidualLost)) return sum(residual, product);
    return whole_ == 2 ? sum(product, product) : sum(product, Values(product.size(), 0.0));
  }

  Naive activate_wrong(const Values& gate, const Values& up) const {
    if (is(FaultId::kGateUpSwapped)) return activate(up, gate);
    Naive out = activate(gate, up);
    for (std::size_t i = 0; i < gate.size() && is(FaultId::kNoSilu); ++i) {
      out.value[i] = gate[i] * up[i];
      out.magnitude[i] = std::fabs(out.value[i]);
    }
    return out;
  }

  // ---- RoPE: H03 --------------------------------------------------------------------------------------------------

  Int position_of(const Step& step, Int b, Int t) const {
    const Int right = step.positions[at(b)][at(t)];
    if (step.is_pad(b, t)) return right;
    if (is(FaultId::kBatchPos)) return step.positions[0][at(t)];
    if (step.phase == Phase::kDecode) {
      if (is(FaultId::kDecodePosZero)) return 0;
      return is(FaultId::kDecodePosPlusOne) || is(FaultId::kLengthCountsCurrent) ? right + 1 : right;
    }
    return is(FaultId::kChunkLocalPos) ? t - std::max<Int>(0, step.left_padding[at(b)] - step.past_length) : right;
  }

  Naive rope_wrong(const Values& x, const Step& step, Op projection, int layer) const {
    const bool is_q = projection == Op::kQProj;
    const Int heads = is_q ? c_.num_q_heads : c_.num_kv_heads;
    const Int d = c_.head_dim;
    const Values& bias = weight_of(projection, layer);
    Naive out;
    out.value.resize(x.size());
    out.magnitude.resize(x.size());
    for (Int row = 0; row < step.batch() * step.num_tokens(); ++row) {
      const auto position = static_cast<double>(position_of(step, row / step.num_tokens(), row % step.num_tokens()));
      for (Int h = 0; h < heads; ++h) {
        for (Int i = 0; i < d / 2; ++i) {
          const double theta = is(FaultId::kTheta) ? value_ : c_.rope_theta;
          const auto size = static_cast<double>(is(FaultId::kSliceHidden) ? c_.hidden : d);
          double angle = position * std::pow(theta, -2.0 * static_cast<double>(i) / size);
          if (is(FaultId::kHalfSlice) && i >= d / 2 / whole_) angle = 0.0;
          if (is(FaultId::kNoRope) || (is(FaultId::kQOnly) && !is_q) || (is(FaultId::kKOnly) && is_q)) angle = 0.0;
          if (is(FaultId::kRopeTwice)) angle *= 2.0;
          if (is(FaultId::kReverse)) angle = -angle;
          double cosine = std::cos(angle);
          double sine = std::sin(angle);
          if (is(FaultId::kTableBf16)) {
            cosine = round_to(DType::kBF16, cosine);
            sine = round_to(DType::kBF16, sine);
          }
          const Int first = (row * heads + h) * d;
          const std::size_t a = at(is(FaultId::kInterleaved) ? first + 2 * i : first + i);
          const std::size_t b = at(is(FaultId::kInterleaved) ? first + 2 * i + 1 : first + i + d / 2);
          out.value[a] = x[a] * cosine - x[b] * sine;
          out.value[b] = x[b] * cosine + x[a] * sine;
          out.magnitude[a] = out.magnitude[b] = std::fabs(x[a]) + std::fabs(x[b]);
        }
        for (Int i = 0; i < d && is(FaultId::kBiasAfterRope); ++i) {
          out.value[at((row * heads + h) * d + i)] += bias[at(h * d + i)];
          out.magnitude[at((row * heads + h) * d + i)] += std::fabs(bias[at(h * d + i)]);
        }
      }
    }
    return out;
  }

  // ---- Cache: H01, H08, H03.after_cache ---------------------------------------------------------------------------

  // Slot number, counted over all of a key (or value) memory [L][B][K][C].
  Int flat_slot(Int B, Int l, Int b, Int k, Int s) const {
    if (is(FaultId::kNoLayerStride)) l = 0;
    if (is(FaultId::kNoBatchStride)) b = 0;
    if (is(FaultId::kNoHeadStride)) k = 0;
    return ((l * B + b) * c_.num_kv_heads + k) * C_ + s;
  }

  Int written_slot(const Step& step, Int l, Int b, Int k, Int t) const {
    const Int B = step.batch();
    const Int K = c_.num_kv_heads;
    const Int s = step.past_length + t;
    const bool decode = step.phase == Phase::kDecode;
    if (is(FaultId::kPadSlot) && step.is_pad(b, t)) {
      return whole_ == 0 ? flat_slot(B, l, 0, k, 0) : flat_slot(B, l, B - 1, k, C_ - 1);
    }
    if (is(FaultId::kHeadStrideIsTokens)) return flat_slot(B, l, b, 0, 0) + k * step.num_tokens() + s;
    if (is(FaultId::kPosMajor)) return flat_slot(B, l, b, 0, 0) + s * K + k;
    if (is(FaultId::kBatchStrideOfOneToken)) return flat_slot(B, l, 0, 0, 0) + b * K + k * C_ + s;
    if (decode && is(FaultId::kWriteMinusOne)) return flat_slot(B, l, b, k, s - 1);
    const bool later = decode && (is(FaultId::kWritePlusOne) || is(FaultId::kLengthCountsCurrent));
    return flat_slot(B, l, b, k, later && s + 1 < C_ ? s + 1 : s);
  }

  // What the reader of a layer sees after it wrote this step: [B][K][C][d], NaN where nothing was written.
  Values memory(bool keys, int layer, int step, const std::vector<Step>& steps, const Get& get) const {
    const Int B = steps.front().batch();
    const Int K = c_.num_kv_heads;
    const Int d = c_.head_dim;
    Values all(at(c_.num_layers * B * K * C_ * d), is(FaultId::kReadPlusOne) ? value_ : std::nan(""));
    const bool pads = (is(FaultId::kNoBatchStride) && whole_ == 1) || is(FaultId::kPadSlot) ||
                      is(FaultId::kPadVisible) || is(FaultId::kPadQueryAxis) || is(FaultId::kFiniteFp16);
    const auto write = [&](const Step& s, int l, Op source) {
      const Values x = get({s.index, {source, l}});
      for (Int b = 0; b < B; ++b) {
        for (Int k = 0; k < K; ++k) {
          for (Int t = 0; t < s.num_tokens(); ++t) {
            if (s.is_pad(b, t) && !pads) continue;
            const Int to = written_slot(s, l, b, k, t) * d;
            const Int from = ((b * s.num_tokens() + t) * K + k) * d;
            std::copy_n(x.begin() + from, d, all.begin() + to);
          }
        }
      }
    };
    for (int s = 0; s <= step; ++s) {
      for (int l = 0; l < c_.num_layers; ++l) {
        if (s == step && l > layer) continue;  // not yet
        if (l != layer && !is(FaultId::kNoLayerStride)) continue;
        if (keys) write(steps[at(s)], l, is(FaultId::kAfterCache) ? Op::kKProj : Op::kKRope);
        if (keys == is(FaultId::kVIntoK)) write(steps[at(s)], l, Op::kVProj);
      }
    }
    Values seen;
    for (Int b = 0; b < B; ++b) {
      for (Int k = 0; k < K; ++k) {
        for (Int s = 0; s < C_; ++s) {
          const auto first = all.begin() + flat_slot(B, layer, b, k, s) * d;
          seen.insert(seen.end(), first, first + d);
        }
      }
    }
    return seen;
  }

  Naive cache_view(const Values& seen, const Step& step) const {
    Naive out;
    for (Int b = 0; b < step.batch(); ++b) {
      for (Int s = 0; s < step.valid_length(); ++s) {
        for (Int k = 0; k < c_.num_kv_heads; ++k) {
          const auto first = seen.begin() + ((b * c_.num_kv_heads + k) * C_ + s) * c_.head_dim;
          out.value.insert(out.value.end(), first, first + c_.head_dim);
        }
      }
    }
    out.magnitude.assign(out.value.size(), 0.0);
    return out;
  }

  // ---- Attention: H02, H05, H08, H10 ------------------------------------------------------------------------------

  Int kv_head_of(Int h, bool decode) const {
    const Int K = c_.num_kv_heads;
    const Int G = c_.num_q_heads / K;
    const bool modulo = is(FaultId::kModulo) || (decode ? is(FaultId::kDecodeOnly) : is(FaultId::kPrefillOnly));
    if (modulo) return h % K;
    if (is(FaultId::kDivideByKv)) return std::min(h / K, K - 1);
    if (is(FaultId::kGroupOffByOne)) return std::min(h / std::max<Int>(1, G + whole_), K - 1);
    return is(FaultId::kHeadZero) ? 0 : h / G;
  }

  bool sees(const Step& step, Int b, Int t, Int slot, bool first_decode_step) const {
    const Int pad = step.left_padding[at(b)];
    const Int P = step.past_length;
    const Int own = P + t;
    const bool decode = step.phase == Phase::kDecode;
    Int low = pad;
    Int high = own;
    if (is(FaultId::kNoMask)) high = step.valid_length() - 1;
    if (is(FaultId::kStrict) && !decode) high = own - 1;
    if (is(FaultId::kOneAhead)) high = std::min(own + 1, step.valid_length() - 1);
    if (is(FaultId::kTopLeft)) high = t;
    if (is(FaultId::kChunkOnly)) low = std::max(pad, P);
    if (is(FaultId::kPadVisible) || is(FaultId::kPadQueryAxis)) low = 0;
    if (is(FaultId::kWindow)) low = std::max(pad, own - whole_ + 1);
    if (decode && is(FaultId::kReadMinusOne)) high = own - 1;
    if (decode && is(FaultId::kFirstToken) && first_decode_step) high = own - 1;
    if (decode && is(FaultId::kReadMinusFirst)) low = std::max<Int>(pad, 1);
    if (decode && (is(FaultId::kReadPlusOne) || is(FaultId::kLengthCountsCurrent))) high = std::min(own + 1, C_ - 1);
    return slot >= low && slot <= high;
  }

  double scale_of() const {
    const auto d = static_cast<double>(c_.head_dim);
    if (is(FaultId::kScale)) return value_ / std::sqrt(d);
    if (is(FaultId::kNoScale) || is(FaultId::kScaleAfter)) return 1.0;
    if (is(FaultId::kScaleHidden)) return 1.0 / std::sqrt(static_cast<double>(c_.hidden));
    return is(FaultId::kScaleTwice) ? 1.0 / d : 1.0 / std::sqrt(d);
  }

  // A slot that a query weighs, and its value vector [d]; null: zeros.
  struct Weighed {
    double score;
    const double* value;
  };

  Naive attention_wrong(const Values& q, const Values& k_rope, const Values& keys, const Values& values,
                        const Step& step, bool first_decode_step) const {
    const Int K = c_.num_kv_heads;
    const Int d = c_.head_dim;
    const Int T = step.num_tokens();
    Naive out;
    for (Int row = 0; row < step.batch() * T * c_.num_q_heads; ++row) {
      const Int h = row % c_.num_q_heads;
      const Int b = row / c_.num_q_heads / T;
      const Int t = row / c_.num_q_heads % T;
      const Int kv = kv_head_of(h, step.phase == Phase::kDecode);
      const Int pad = step.left_padding[at(b)];
      std::vector<Weighed> slots;
      double score_magnitude = 0.0;
      for (Int s = 0; s < C_ && !step.is_pad(b, t); ++s) {
        const bool seen = sees(step, b, t, s, first_decode_step);
        const double* value = values.data() + ((b * K + kv) * C_ + s) * d;
        if (!seen) {
          if (is(FaultId::kFiniteFp16) && s < step.valid_length()) slots.push_back({value_, value});
          continue;
        }
        const double* key = keys.data() + ((b * K + kv) * C_ + s) * d;
        if (is(FaultId::kAfterCache) && s >= step.past_length) {
          key = k_rope.data() + ((b * T + s - step.past_length) * K + kv) * d;
        }
        double dot = 0.0;
        double magnitude = 0.0;
        for (Int i = 0; i < d; ++i) {
          dot += q[at(row * d + i)] * key[i];
          magnitude += std::fabs(q[at(row * d + i)] * key[i]);
        }
        if (is(FaultId::kQkFp16)) dot = round_to(DType::kF16, dot);
        slots.push_back({dot * scale_of(), value});
        score_magnitude = std::max(score_magnitude, magnitude * scale_of());
      }
      if (is(FaultId::kTailZero) && !slots.empty()) {
        const Int last_tile = pad + (step.valid_length() - 1 - pad) / whole_ * whole_;
        for (Int s = step.valid_length(); s < last_tile + whole_ && step.past_length + t >= last_tile; ++s) {
          slots.push_back({0.0, nullptr});
        }
      }
      append_softmax(slots, score_magnitude, out);
    }
    return out;
  }

  // In float32 numbers this large are infinite.
  static double as_float(double x) { return std::fabs(x) > std::numeric_limits<float>::max() ? x * HUGE_VAL : x; }

  void append_softmax(const std::vector<Weighed>& slots, double score_magnitude, Naive& out) const {
    const auto d = at(c_.head_dim);
    double maximum = -HUGE_VAL;
    for (const Weighed& slot : slots) maximum = std::max(maximum, slot.score);
    Values weights;
    double total = 0.0;
    for (std::size_t j = 0; j < slots.size(); ++j) {
      double reference = maximum;
      if (is(FaultId::kNoMax)) reference = 0.0;
      if (is(FaultId::kTileMax)) {  // the highest up to the end of this slot's own tile
        reference = -HUGE_VAL;
        const std::size_t end = std::min(slots.size(), (j / at(whole_) + 1) * at(whole_));
        for (std::size_t i = 0; i < end; ++i) reference = std::max(reference, slots[i].score);
      }
      weights.push_back(as_float(std::exp(slots[j].score - reference)));
      total = as_float(total + weights.back());
      if (is(FaultId::kSumFp16)) total = round_to(DType::kF16, total);
    }
    const double after = is(FaultId::kScaleAfter) ? 1.0 / std::sqrt(static_cast<double>(d)) : 1.0;
    for (std::size_t i = 0; i < d; ++i) {
      double value = 0.0;
      double magnitude = 0.0;
      for (std::size_t j = 0; j < slots.size(); ++j) {
        const double x = slots[j].value == nullptr ? 0.0 : slots[j].value[i];
        value = as_float(value + as_float(weights[j] * x));
        magnitude += std::fabs(weights[j] / total * x);
      }
      out.value.push_back(slots.empty() ? 0.0 : value / total * after);
      out.magnitude.push_back(slots.empty() ? kUnknown : after * magnitude * (1.0 + score_magnitude));
    }
  }

  std::optional<FaultId> id_;
  double value_;
  Int whole_;
  Int C_;
  mutable std::map<TensorId, Values> weights_as_read_;
};

}  // namespace qdiff::optimized::cpu::testing

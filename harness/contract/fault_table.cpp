#include "harness/contract/fault_table.h"

#include <algorithm>

namespace qdiff {
namespace {

using enum Op;
using enum Parameter;
using enum Law;
using enum Takes;
using enum RightValue;

// ---- What several rows of the table share ----

constexpr FaultScope kInPrefill = {.phase = Phase::kPrefill};
constexpr FaultScope kInDecode = {.phase = Phase::kDecode};
constexpr FaultScope kInFirstDecode = {.phase = Phase::kDecode, .first_of_phase = true};

constexpr const char* kScoresDiffer = "several visible slots, with scores that differ";
constexpr const char* kTurned = "positions above 0";
constexpr const char* kLlamaLoader = "a loader that knows llama's projections alone";
constexpr const char* kBiasNotHeld = "biases that the narrower type does not hold";
constexpr const char* kNoTranspose = "a missing transpose; legal where the weight is square";
constexpr const char* kNotSymmetric = "a weight that is not symmetric";
constexpr const char* kTinyRows = "rows whose mean square is not far above epsilon";

// ---- Roundings that an engine makes and does not declare ----

std::string_view hypothesis_of(RoundingPoint point) {
  const std::string_view text = name(point);
  if (text.starts_with("attention.")) return "H02";
  if (text.starts_with("rope.")) return "H03";
  if (text.starts_with("rms_norm.")) return "H09";
  if (text.starts_with("matmul.")) return "H07";
  return "X";
}

struct Table {
  std::vector<std::string> names;
  std::vector<VariantFacts> rows;
};

void add_rounding(Table& table, const DeclarablePoint& rounding) {
  const auto same = [&](const VariantFacts& row) { return row.declares == rounding; };
  if (std::ranges::any_of(table.rows, same)) return;
  std::string text(name(*rounding.point));
  std::ranges::replace(text, '.', '_');
  table.names.push_back(std::string(hypothesis_of(*rounding.point)) + '.' + text +
                        (rounding.dtype == DType::kBF16 ? "_bf16" : "_fp16"));
  VariantFacts row{.id = static_cast<FaultId>(table.rows.size()),
                   .what = "rounded to " + rounding.value() + " at " + rounding.key(),
                   .source = "an engine that rounds there and does not declare it",
                   .shows_when = "storage wider than that type",
                   .reach = Reach::kEach,
                   .declares = rounding,
                   .probed = false};
  for (const OperationRow& operation : kOperationTable) {
    const auto& points = operation.points;
    if (std::ranges::find(points, *rounding.point) != points.end()) row.ops.push_back(operation.op);
  }
  table.rows.push_back(std::move(row));
}

Table make_table() {
  const std::vector<Op> kCaches = {kKCache, kVCache};
  const std::vector<Op> kAttention = {kScores, kProbs, kAttnOutput};
  const std::vector<Op> kHeadMapped = {kScores, kAttnOutput};
  const std::vector<Op> kRotations = {kQRope, kKRope};
  const std::vector<Op> kBiased = {kQProj, kKProj, kVProj};
  const std::vector<Op> kProjections = {kQProjMatmul, kKProjMatmul, kVProjMatmul, kOProj,
                                        kGateProj,    kUpProj,      kDownProj};
  const std::vector<Op> kNorms = {kInputLayernorm, kPostAttentionLayernorm, kNorm};
  Table table;
#define QDIFF_FAULT(enumerator, text, ...) \
  table.names.emplace_back(text);          \
  table.rows.push_back({.id = FaultId::enumerator, __VA_ARGS__});
#include "harness/contract/fault_table.inc"
#undef QDIFF_FAULT
  for (std::size_t i = 0; i < kNumRoundingPoints; ++i) {
    // Says where k and v are taken from, and rounds nothing.
    if (static_cast<RoundingPoint>(i) == RoundingPoint::kKvCachePrefill) continue;
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      add_rounding(table, {static_cast<RoundingPoint>(i), dtype});
    }
  }
  return table;
}
static_assert(kNumFaults + 2 * kNumRoundingPoints < 256,
              "FaultId holds 8 bits, and CUDA takes the last value for none");

const Table& table() {
  static const Table kTable = make_table();
  return kTable;
}

std::optional<double> right_value(RightValue right, const ModelConfig& config) {
  switch (right) {
    case kOne:
      return 1.0;
    case kRopeTheta:
      return config.rope_theta;
    case kRmsNormEps:
      return config.rms_norm_eps;
    case kNone:
      break;
  }
  return std::nullopt;
}

}  // namespace

const std::vector<VariantFacts>& fault_table() { return table().rows; }
const VariantFacts& fault_facts(FaultId id) { return table().rows.at(static_cast<std::size_t>(id)); }
std::string_view name(FaultId id) { return table().names.at(static_cast<std::size_t>(id)); }

std::string_view hypothesis_of(FaultId id) {
  const std::string_view text = name(id);
  return text.starts_with('H') ? text.substr(0, text.find('.')) : std::string_view();
}

std::optional<FaultId> parse_fault_id(std::string_view text) {
  const auto& names = table().names;
  const auto found = std::ranges::find(names, text);
  if (found == names.end()) return std::nullopt;
  return static_cast<FaultId>(found - names.begin());
}

bool is_in_model(const VariantFacts& facts, const ModelConfig& config) {
  return config.has(row(facts.ops.front()).component);
}

std::vector<VariantFacts> faults_of(const ModelConfig& config) {
  std::vector<VariantFacts> rows = fault_table();
  for (VariantFacts& row : rows) {
    row.right_value = right_value(row.right, config);
    if (!is_in_model(row, config)) row.shows_when = "biases of q, k and v, which this model does not have";
  }
  return rows;
}

const VariantFacts* find_variant(const std::vector<VariantFacts>& catalogue, FaultId id) {
  const auto found = std::ranges::find_if(catalogue, [&](const VariantFacts& row) { return row.id == id; });
  return found == catalogue.end() ? nullptr : &*found;
}

}  // namespace qdiff

// A rounding at one of the table's points that the engine makes and its manifest does not declare: one variant for each
// point and 16-bit type, which the catalogue proper does not name already.
#include <algorithm>

#include "reference/faults/fault.h"

namespace qdiff::reference {
namespace {

std::string_view hypothesis_of(std::string_view point) {
  if (point.starts_with("attention.")) return "H02";
  if (point.starts_with("rope.")) return "H03";
  if (point.starts_with("rms_norm.")) return "H09";
  if (point.starts_with("matmul.")) return "H07";
  return "X";
}

bool named_already(RoundingPoint point, DType dtype) {
  return (point == RoundingPoint::kAttentionScores && dtype == DType::kF16) ||  // H02.qk_fp16
         (point == RoundingPoint::kRopeTable && dtype == DType::kBF16);         // H03.table_bf16
}

}  // namespace

std::vector<FaultEntry> undeclared_roundings() {
  std::vector<FaultEntry> faults;
  for (std::size_t i = 0; i < kNumRoundingPoints; ++i) {
    const auto point = static_cast<RoundingPoint>(i);
    for (const auto& [dtype, suffix] : {std::pair{DType::kBF16, "_bf16"}, std::pair{DType::kF16, "_fp16"}}) {
      if (named_already(point, dtype)) continue;
      std::string id(name(point));
      std::replace(id.begin(), id.end(), '.', '_');
      id = std::string(hypothesis_of(name(point))) + '.' + id + suffix;
      std::vector<Op> ops;
      for (const OperationRow& operation : kOperationTable) {
        if (std::find(operation.points.begin(), operation.points.end(), point) != operation.points.end()) {
          ops.push_back(operation.op);
        }
      }
      faults.push_back({{.id = id,
                         .what = "rounded to " + std::string(name(dtype)) + " at " + std::string(name(point)),
                         .source = "an engine that rounds there and does not declare it",
                         .ops = std::move(ops),
                         .shows_when = "storage wider than that type",
                         .reach = Reach::kEach,
                         .declares = DeclarablePoint{point, dtype},
                         .probed = false},
                        {},
                        nullptr});
    }
  }
  return faults;
}

}  // namespace qdiff::reference

// Waivers: findings that a project knows and lives with for a while, each with its reason, its owner and its last day.
// The file's form is schema/waivers.schema.json.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/fault_id.h"
#include "harness/contract/operation_table.h"
#include "harness/findings/result.h"

namespace qdiff::acceptance {

using Date = std::chrono::year_month_day;

// A tensor of one layer or, as "model.layers.*.mlp.act", of every layer.
struct TensorPattern {
  std::string text;
  Op op = Op::kEmbedTokens;
  std::optional<int> layer;  // none: every layer, or outside them

  bool fits(const TensorId& id) const { return id.op == op && (!layer || id.layer == *layer); }
};

// Fits the findings that agree with all that it names.
struct Waiver {
  std::optional<FaultId> variant;
  std::optional<std::string> mechanism;
  std::optional<TensorPattern> tensor;
  std::optional<std::string> case_id;
  std::string reason;
  std::string link;
  Date expires;  // the last day, UTC, on which it holds

  bool fits(const findings::Finding& finding) const;
  std::string what() const;  // "H05.modulo", "model.layers.*.mlp.act in case H04-square"
};

// Throws InputError that names the file, the place in it and what must stand there.
std::vector<Waiver> parse_waivers(std::string_view text, const std::string& source);
std::vector<Waiver> read_waivers(const std::filesystem::path& file);

std::string to_text(const Date& date);  // "2026-12-31"

}  // namespace qdiff::acceptance

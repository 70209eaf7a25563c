#include "harness/pattern/mask.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/pattern/scale.h"

namespace qdiff::pattern {
namespace {

// Slots that a wrong row hides though they should be seen, lowest to highest; and those that it should see.
struct Hidden {
  std::int64_t lowest, highest, count;
  std::int64_t first_real, own;
};

struct Tally {
  std::int64_t wrong = 0;     // elements
  std::int64_t ahead = 0;     // seen beyond the query's own slot
  std::int64_t furthest = 0;  // how far beyond it
  std::int64_t pads = 0;      // padding seen
  std::int64_t seeing = 0;    // rows that see any
  std::int64_t by_rule = 0;   // of these, rows that do so as attention would
  double least = HUGE_VAL;    // of what hidden slots hold
  double most = -HUGE_VAL;
  std::vector<Hidden> hidden;    // of the rows that hide any
  std::vector<Element> visible;  // wrong elements that are seen, rightly
};

// Whether a wrong element of a slot that should be hidden takes part in attention.
bool is_seen(const Values& v, std::int64_t row, std::int64_t slot) {
  const double a = v.actual(row, slot);
  return v.op() == Op::kProbs ? a > 0.0 && a <= 1.0 : std::isfinite(a);
}

bool is_hidden(const Values& v, std::int64_t row, std::int64_t slot) {
  const double a = v.actual(row, slot);
  return v.op() == Op::kProbs ? a == 0.0 : v.vanishes(a, row);
}

// Scores do where the slots seen beyond the query's own are one run. Probabilities, among which small ones may have
// become 0, do where they sum to 1 with those seen wrongly.
bool sees_by_rule(const Values& v, std::int64_t row, std::int64_t own) {
  if (v.op() == Op::kProbs) {
    double sum = 0.0;
    double allowed = 0.0;
    for (std::int64_t slot = 0; slot < v.num_columns(); ++slot) {
      const double a = v.actual(row, slot);
      sum += a;
      allowed += v.allowance(a, a, v.sigma(row, slot));
    }
    return std::fabs(sum - 1.0) <= allowed;
  }
  std::int64_t runs = 0;
  bool before = false;
  for (std::int64_t slot = own + 1; slot < v.num_columns(); ++slot) {
    const bool seen = v.wrong(row, slot) && is_seen(v, row, slot);
    runs += seen && !before ? 1 : 0;
    before = seen;
  }
  return runs <= 1;
}

void add_row(const Values& v, std::int64_t row, Tally& tally) {
  const std::int64_t own = v.step().past_length + v.token_of(row);
  Hidden hidden{-1, -1, 0, v.padding_of(row), own};
  bool seeing = false;
  for (std::int64_t slot = 0; slot < v.num_columns(); ++slot) {
    if (!v.wrong(row, slot)) continue;
    ++tally.wrong;
    const double a = v.actual(row, slot);
    if (slot < hidden.first_real || slot > own) {
      if (!is_seen(v, row, slot)) continue;
      seeing = true;
      ++(slot > own ? tally.ahead : tally.pads);
      tally.furthest = std::max(tally.furthest, slot - own);
      tally.least = std::min(tally.least, a);
      tally.most = std::max(tally.most, a);
    } else if (is_hidden(v, row, slot)) {
      if (hidden.count == 0) hidden.lowest = slot;
      hidden.highest = slot;
      ++hidden.count;
    } else {
      tally.visible.push_back({a, v.expected(row, slot), v.sigma(row, slot), static_cast<std::int32_t>(row),
                               static_cast<std::int32_t>(slot)});
    }
  }
  if (seeing) {
    ++tally.seeing;
    if (sees_by_rule(v, row, own)) ++tally.by_rule;
  }
  // A query that is left nothing to see shows no rule.
  const bool nothing_left = hidden.count == own - hidden.first_real + 1;
  if (hidden.count > 0 && !nothing_left) tally.hidden.push_back(hidden);
}

template <typename Predicate>
bool in_most(const std::vector<Hidden>& rows, const Predicate& predicate) {
  const auto count = std::ranges::count_if(rows, predicate);
  return static_cast<double>(count) >= kMost * static_cast<double>(rows.size());
}

// The rule by which slots are hidden that should be seen.
std::optional<MaskError> hiding(const Values& v, const std::vector<Hidden>& rows) {
  if (rows.size() < 2) return std::nullopt;
  const bool decode = v.step().phase == Phase::kDecode;
  const auto& first = rows.front();
  if (!in_most(rows, [](const Hidden& h) { return h.count == h.highest - h.lowest + 1; })) return std::nullopt;
  if (in_most(rows, [](const Hidden& h) { return h.count == 1 && h.lowest == h.own; })) {
    return MaskError{"the last slot is never seen", decode ? "H08" : "H10"};
  }
  if (in_most(rows, [](const Hidden& h) { return h.highest == h.own; })) {
    return MaskError{"the newest slots are not seen", decode ? "H08" : "H10"};
  }
  if (!in_most(rows, [](const Hidden& h) { return h.lowest == h.first_real; })) return std::nullopt;
  if (decode && in_most(rows, [](const Hidden& h) { return h.count == 1; })) {
    return MaskError{"the first slot is not seen", "H08"};
  }
  const std::int64_t window = first.own - first.highest;
  const bool same_end = in_most(rows, [&](const Hidden& h) { return h.highest == first.highest; });
  if (!same_end && in_most(rows, [&](const Hidden& h) { return h.own - h.highest == window; })) {
    return MaskError{"only the last " + std::to_string(window) + " slots are seen", "H10"};
  }
  if (same_end) return MaskError{"slots before " + std::to_string(first.highest + 1) + " are not seen", "H10"};
  return std::nullopt;
}

std::optional<MaskError> seeing(const Values& v, const Tally& tally) {
  if (tally.seeing == 0) return std::nullopt;
  MaskError found{"", v.step().phase == Phase::kDecode && tally.pads == 0 ? "H08" : "H10"};
  if (tally.ahead > 0) {
    const bool one_ahead = tally.furthest == 1 && v.step().num_tokens() > 2;
    found.text = one_ahead ? "one slot beyond the diagonal is seen" : "slots beyond the diagonal are seen";
  }
  if (tally.pads > 0) found.text += std::string(found.text.empty() ? "" : " and ") + "padding slots are seen";
  if (v.op() == Op::kScores && tally.least == tally.most) {
    found.text += ": they hold " + digits(tally.least, 6);
  }
  return found;
}

}  // namespace

std::optional<MaskError> find_mask_error(const Values& values, std::span<const std::int64_t> rows) {
  if (!values.layout().is_scores() || values.num_columns() < 2) return std::nullopt;
  Tally tally;
  for (const std::int64_t row : rows) add_row(values, row, tally);
  const bool probs = values.op() == Op::kProbs;
  const auto visible = static_cast<double>(tally.visible.size());
  if (!probs && visible > (1.0 - kMost) * static_cast<double>(tally.wrong)) return std::nullopt;
  if (probs && !is_multiple_by_row(values, tally.visible)) return std::nullopt;
  if (static_cast<double>(tally.by_rule) < kMost * static_cast<double>(tally.seeing)) return std::nullopt;
  if (tally.seeing == 1) return std::nullopt;
  const std::optional<MaskError> seen = seeing(values, tally);
  const std::optional<MaskError> unseen = hiding(values, tally.hidden);
  if (!tally.hidden.empty() && !unseen) return std::nullopt;
  if (!seen) return unseen;
  if (!unseen) return seen;
  return MaskError{seen->text + ", " + unseen->text, seen->hypothesis == unseen->hypothesis ? seen->hypothesis : "H10"};
}

}  // namespace qdiff::pattern

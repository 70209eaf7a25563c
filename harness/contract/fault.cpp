#include "harness/contract/fault.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>

#include "harness/contract/error.h"

namespace qdiff {
namespace {

enum class Takes : std::uint8_t {
  kPositive,
  kNotNegative,
  kNegative,
  kFinite,
  kCount,
  kShift,
  kOneOrMinusOne,
  kZeroOrMinusOne,
  kZeroOrOne,
  kOneOrTwo,
};

struct ValueRule {
  std::string_view id;
  Takes takes;
};

// The faults of docs/faults.md with a value in brackets; all others take none.
constexpr auto kValueRules = std::to_array<ValueRule>({
    {"H01.no_batch_stride", Takes::kZeroOrOne},
    {"H01.pad_slot", Takes::kZeroOrMinusOne},
    {"H02.scale", Takes::kPositive},
    {"H02.tile_max", Takes::kCount},
    {"H02.tail_zero", Takes::kCount},
    {"H03.theta", Takes::kPositive},
    {"H03.half_slice", Takes::kCount},
    {"H04.wo_cols", Takes::kCount},
    {"H04.residual_lost", Takes::kOneOrTwo},
    {"H04.down_in_act", Takes::kCount},
    {"H05.group_off_by_one", Takes::kOneOrMinusOne},
    {"H07.lda", Takes::kShift},
    {"H07.first_tile_only", Takes::kCount},
    {"H07.acc_bf16", Takes::kCount},
    {"H08.read_plus_one", Takes::kFinite},
    {"H09.eps", Takes::kNotNegative},
    {"H09.weight_from_other_layer", Takes::kShift},
    {"H09.final_norm_eps", Takes::kNotNegative},
    {"H10.finite_fp16", Takes::kNegative},
    {"H10.window", Takes::kCount},
});

// Largest tile, window, count or shift: beyond any model's dimensions, and far from overflow in any product of them.
constexpr double kLargestCount = 1 << 20;

bool acceptable(Takes takes, double value) {
  switch (takes) {
    case Takes::kPositive:
      return std::isfinite(value) && value > 0.0;
    case Takes::kNotNegative:
      return std::isfinite(value) && value >= 0.0;
    case Takes::kNegative:
      return std::isfinite(value) && value < 0.0;
    case Takes::kFinite:
      return std::isfinite(value);
    case Takes::kCount:
      return value >= 1.0 && value <= kLargestCount && value == std::floor(value);
    case Takes::kShift:
      return value != 0.0 && std::fabs(value) <= kLargestCount && value == std::floor(value);
    case Takes::kOneOrMinusOne:
      return value == 1.0 || value == -1.0;
    case Takes::kZeroOrMinusOne:
      return value == 0.0 || value == -1.0;
    case Takes::kZeroOrOne:
      return value == 0.0 || value == 1.0;
    case Takes::kOneOrTwo:
      return value == 1.0 || value == 2.0;
  }
  return false;
}

const char* text_of(Takes takes) {
  switch (takes) {
    case Takes::kPositive:
      return "must be finite and positive";
    case Takes::kNotNegative:
      return "must be finite and not negative";
    case Takes::kNegative:
      return "must be finite and negative";
    case Takes::kFinite:
      return "must be finite";
    case Takes::kCount:
      return "must be a whole number from 1 to 1048576";
    case Takes::kShift:
      return "must be a whole number other than 0, from -1048576 to 1048576";
    case Takes::kOneOrMinusOne:
      return "must be 1 or -1";
    case Takes::kZeroOrMinusOne:
      return "must be 0 or -1";
    case Takes::kZeroOrOne:
      return "must be 0 or 1";
    case Takes::kOneOrTwo:
      return "must be 1 or 2";
  }
  return "is not taken";
}

const ValueRule* rule_of(std::string_view id) {
  const auto* found =
      std::find_if(kValueRules.begin(), kValueRules.end(), [&](const ValueRule& rule) { return rule.id == id; });
  return found == kValueRules.end() ? nullptr : found;
}

std::string number_text(double value) {
  char buffer[40];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, value);  // shortest that reads back the same
  return error == std::errc{} ? std::string(buffer, end) : std::string();
}

}  // namespace

std::string to_string(const Fault& fault) {
  std::string text = fault.id;
  if (fault.value) text += '=' + number_text(*fault.value);
  if (fault.layer) text += '@' + std::to_string(*fault.layer);
  return text;
}

bool takes_value(const std::string& fault_id) { return rule_of(fault_id) != nullptr; }

void check_fault_value(const Fault& fault) {
  if (!fault.value) return;
  const ValueRule* rule = rule_of(fault.id);
  const std::string value = number_text(*fault.value);
  if (rule == nullptr) throw InputError("fault " + fault.id + " takes no value; plant it without \"=" + value + "\"");
  if (acceptable(rule->takes, *fault.value)) return;
  throw InputError("fault " + fault.id + ": the value " + value + ' ' + text_of(rule->takes));
}

}  // namespace qdiff

#include "harness/contract/fault.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"

namespace qdiff {
namespace {

// Largest tile, window, count or shift: beyond any model's dimensions, and far from overflow in any product of them.
constexpr double kLargestCount = 1 << 20;

bool acceptable(const VariantFacts& row, double value) {
  switch (row.takes) {
    case Takes::kListed:
      return std::ranges::find(row.values, value) != row.values.end();
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
    case Takes::kNothing:
      break;
  }
  return false;
}

std::string rule_of(const VariantFacts& row) {
  switch (row.takes) {
    case Takes::kListed:
      return "must be " + joined(row.values, " or ", shortest);
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
    case Takes::kNothing:
      break;
  }
  return "is not taken";
}

}  // namespace

std::string to_string(const Fault& fault) {
  std::string text(name(fault.id));
  if (fault.value) text += '=' + shortest(*fault.value);
  if (fault.layer) text += '@' + std::to_string(*fault.layer);
  return text;
}

void check_fault_value(const Fault& fault) {
  if (!fault.value) return;
  const VariantFacts& row = fault_facts(fault.id);
  const std::string id(name(fault.id));
  const std::string value = shortest(*fault.value);
  if (row.takes == Takes::kNothing) {
    throw InputError("fault " + id + " takes no value; plant it without \"=" + value + "\"");
  }
  if (!acceptable(row, *fault.value)) throw InputError("fault " + id + ": the value " + value + ' ' + rule_of(row));
}

void check_fault_layer(const Fault& fault, std::int64_t num_layers) {
  if (!fault.layer || (*fault.layer >= 0 && *fault.layer < num_layers)) return;
  throw InputError("fault " + std::string(name(fault.id)) + ": there is no layer " + std::to_string(*fault.layer) +
                   "; the model's layers are 0 to " + std::to_string(num_layers - 1));
}

}  // namespace qdiff

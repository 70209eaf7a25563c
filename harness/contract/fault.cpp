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

bool is_finite(double x) { return std::isfinite(x); }

// What a value has to be that the table does not list.
struct Rule {
  Takes takes;
  const char* words;
  bool (*fits)(double x);
};
constexpr Rule kRules[] = {
    {Takes::kPositive, "finite and positive", [](double x) { return is_finite(x) && x > 0.0; }},
    {Takes::kNotNegative, "finite and not negative", [](double x) { return is_finite(x) && x >= 0.0; }},
    {Takes::kNegative, "finite and negative", [](double x) { return is_finite(x) && x < 0.0; }},
    {Takes::kFinite, "finite", is_finite},
    {Takes::kCount, "a whole number from 1 to 1048576",
     [](double x) { return x >= 1.0 && x <= kLargestCount && x == std::floor(x); }},
    {Takes::kShift, "a whole number other than 0, from -1048576 to 1048576",
     [](double x) { return x != 0.0 && std::fabs(x) <= kLargestCount && x == std::floor(x); }},
};

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
  const std::string start = "fault " + id + ": the value " + value + " must be ";
  if (row.takes == Takes::kListed) {
    if (std::ranges::count(row.values, *fault.value) > 0) return;
    throw InputError(start + joined(row.values, " or ", shortest));
  }
  const Rule& rule = *std::ranges::find(kRules, row.takes, &Rule::takes);
  if (!rule.fits(*fault.value)) throw InputError(start + rule.words);
}

void check_fault_layer(const Fault& fault, std::int64_t num_layers) {
  if (!fault.layer || (*fault.layer >= 0 && *fault.layer < num_layers)) return;
  throw InputError("fault " + std::string(name(fault.id)) + ": there is no layer " + std::to_string(*fault.layer) +
                   "; the model's layers are 0 to " + std::to_string(num_layers - 1));
}

}  // namespace qdiff

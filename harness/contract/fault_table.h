// The known bugs as one table: what each is called, what it changes, what it may be given, in which words it is
// reported. The reference computes with each of them, the engines plant what they can, the diagnosis tries them all.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/fault_id.h"
#include "harness/contract/mechanism.h"
#include "harness/contract/precision.h"

namespace qdiff {

// A wrong variant of an operation: a known bug, with its parameter.
struct Variant {
  FaultId id;
  std::optional<double> value = {};  // for variants with a parameter; empty: the first that the table lists
  auto operator<=>(const Variant&) const = default;
};

// Whether a variant changes all of its rows at once, or may sit at each of them alone (a GEMM, one of the norms).
enum class Reach : std::uint8_t { kTogether, kEach };

// Which values a parameter may have.
enum class Takes : std::uint8_t {
  kNothing,
  kListed,  // those of `values` alone
  kPositive,
  kNotNegative,
  kNegative,
  kFinite,
  kCount,  // a tile, a window: a whole number of 1 or more
  kShift,  // a whole number other than 0
};

// What right code has in the place of a parameter that is continuous, and can therefore be fitted.
enum class RightValue : std::uint8_t { kNone, kOne, kRopeTheta, kRmsNormEps };

struct VariantFacts {
  FaultId id;
  std::string what = {};                   // one line: what such an engine computes
  std::string source = {};                 // where this bug really happened, or the derivation
  std::vector<Op> ops = {};                // the rows whose value it changes by itself
  std::string shows_when = {};             // what an input must have to show it: "1 < K < H"
  std::vector<double> values = {};         // of its parameter, the likeliest first; empty: it takes none
  std::optional<double> right_value = {};  // of `right`, on one model
  Reach reach = Reach::kTogether;
  // Set where the variant is nothing but a rounding at that point: it is evaluated by declaring it.
  std::optional<DeclarablePoint> declares = {};
  // In float64 it computes what right code does. Where a rounding that can be declared does the same, it is that.
  bool only_rounds = false;
  // Whether each run asks if its inputs would show this variant. Not for the roundings that the table of points gives.
  bool probed = true;
  Takes takes = Takes::kNothing;
  RightValue right = RightValue::kNone;
  std::vector<Change> changes = {};  // empty where it declares a rounding
  FaultScope scope = {};
  // Planted in one layer it spoils others too, or none: it is planted in all of them.
  bool leaves_layer = false;
  // It stores over a tensor that was handed out and that is still needed.
  bool overwrites = false;
};

// By id: the rows of fault_table.inc, then a rounding to each 16-bit type at each rounding point that none of them
// names.
const std::vector<VariantFacts>& fault_table();
const VariantFacts& fault_facts(FaultId id);
// The same for one model, with right values and with what no input of that model can show.
std::vector<VariantFacts> faults_of(const ModelConfig& config);

// Whether the model has the operation that the bug changes first. Under a bug of one that it lacks it computes what
// right code does.
bool is_in_model(const VariantFacts& facts, const ModelConfig& config);

std::string_view name(FaultId id);  // "H05.modulo"
// "H05" of "H05.modulo"; empty for bugs outside the ten hypotheses.
std::string_view hypothesis_of(FaultId id);
std::optional<FaultId> parse_fault_id(std::string_view text);

// The variant of this id; nullptr where the catalogue has none.
const VariantFacts* find_variant(const std::vector<VariantFacts>& catalogue, FaultId id);

}  // namespace qdiff

#include "harness/pattern/pattern.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>
#include <utility>

#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/pattern/mask.h"
#include "harness/pattern/moved.h"
#include "harness/pattern/scale.h"
#include "harness/pattern/trend.h"
#include "harness/pattern/values.h"
#include "harness/pattern/words.h"

namespace qdiff::pattern {
namespace {

constexpr std::size_t kMostCharacters = 160;

// "0.125 times"; close to 1 the difference from it: "(1 - 3.1e-05) times".
std::string times(double ratio) {
  const double beyond = ratio - 1.0;
  if (std::fabs(beyond) >= 1e-3) return digits(ratio, 4) + " times";
  return (beyond < 0.0 ? "(1 - " : "(1 + ") + digits(std::fabs(beyond), 2) + ") times";
}

bool is_one_of(Op op, std::initializer_list<Op> ops) { return std::ranges::find(ops, op) != ops.end(); }
bool is_norm(Op op) { return arithmetic_of(op) == Arithmetic::kNorm; }
bool is_rope(Op op) { return arithmetic_of(op) == Arithmetic::kRotate; }
bool is_projection_with_bias(Op op) { return arithmetic_of(op) == Arithmetic::kBias; }
bool is_product(Op op) { return arithmetic_of(op) == Arithmetic::kProduct || is_projection_with_bias(op); }

// Finds one explanation of the values, the most specific first, and says what it is evidence for.
class Finder {
 public:
  Finder(const Values& values, Pattern& pattern)
      : v_(values), pattern_(pattern), rows_(sample_of_wrong_rows(values)), wrong_(wrong_elements(values, rows_)) {}

  // Phrases, the most telling first.
  std::vector<std::string> operator()() {
    const std::string special = describe_special_values(v_, wrong_);
    // Hidden probabilities are zero, too: a mask says more than "zero where wrong".
    const bool explained = mask() || (!special.empty() ? tell(special) : scale() || moved() || law());
    if (!special.empty()) return std::move(phrases_);
    coarser_type();
    trend(explained);
    return std::move(phrases_);
  }

 private:
  bool tell(std::string phrase) {
    phrases_.push_back(std::move(phrase));
    return true;
  }
  void blame(std::string_view hypothesis, std::string evidence) {
    pattern_.hypothesis = std::string(hypothesis);
    pattern_.evidence = std::move(evidence);
  }

  bool mask() {
    const std::optional<MaskError> found = find_mask_error(v_, rows_);
    if (!found) return false;
    blame(found->hypothesis, found->text + ": attention reaches other slots than it should");
    return tell(found->text);
  }

  bool scale() {
    const std::optional<Scale> found = find_scale(v_, wrong_, rows_);
    if (!found) return false;
    const bool whole = found->by == Grouping::kWhole;
    const std::string group = group_name(v_, found->by);
    const std::string range = " (" + digits(found->least, 3) + ".." + digits(found->most, 3) + ')';
    if (found->kind == Scale::Kind::kOffset) {
      pattern_.offset = whole ? "one constant" : "a constant for each " + group;
      blame_offset(*found);
      return tell("off by " + *pattern_.offset + (whole ? " (" + digits(found->least, 4) + ')' : range));
    }
    if (!whole) {
      pattern_.grouped_ratio = "a constant ratio in each " + group;
      blame_ratio(*found);
      return tell(*pattern_.grouped_ratio + range);
    }
    pattern_.ratio = found->least;
    blame_ratio(*found);
    const bool flipped = std::fabs(found->least + 1.0) <= 2.0 * found->doubt;
    return tell(flipped ? "sign flipped" : times(found->least) + " the expected values");
  }

  void blame_offset(const Scale& found) {
    const bool by_column = found.by == Grouping::kColumn || found.by == Grouping::kWhole;
    if (!by_column || !found.throughout || !several_rows()) return;
    if (is_projection_with_bias(v_.op())) {
      blame("H06", "the error of a column is the same in every token row: the bias is wrong, not the product");
    } else if (is_rope(v_.op()) && several_positions()) {
      blame("H06", "the error of a column is the same at every position: a bias that was not rotated");
    }
  }

  void blame_ratio(const Scale& found) {
    const Op op = v_.op();
    const bool whole = found.by == Grouping::kWhole;
    if (!(found.least > 0.0) || !found.throughout) return;
    if (op == Op::kScores && whole) {
      blame("H02", "every score is " + times(found.least) + " what is expected: the scale is wrong");
    } else if (is_one_of(op, {Op::kProbs, Op::kAttnOutput}) && whole) {
      blame("H02", "every value is " + times(found.least) + " what is expected: the probabilities do not sum to 1");
    } else if (op == Op::kProbs && found.by == Grouping::kRow) {
      // In decode a slot beyond the valid ones, which the tensor does not show, would take its share as well.
      const bool slot_unseen = v_.step().phase == Phase::kDecode && found.least < 1.0;
      if (!slot_unseen) {
        blame("H02", "each row of probabilities is a multiple of the expected one: the sum of its softmax is wrong");
      }
    } else if (is_norm(op) && (whole || found.by == Grouping::kRow)) {
      blame("H09", "each row is a multiple of the expected one: the norm of a row is wrong, not its elements");
    } else if (is_norm(op) && found.by == Grouping::kColumn) {
      blame("H09", "each column is a multiple of the expected one: the norm's weight is wrong");
    }
  }

  // A plain exchange says more than a rule over the whole tensor, and that more than that something moved.
  bool moved() {
    const std::optional<Mixup> mixup = find_mixup(v_);
    const bool plain = mixup && mixup->axis != Mixup::Axis::kSeveral;
    if (!plain && rearranged()) return true;
    if (!mixup) return false;
    blame_mixup(*mixup);
    return tell(describe(*mixup, v_));
  }

  bool rearranged() {
    const std::optional<Rearranged> found = find_rearrangement(v_, wrong_);
    if (!found) return false;
    const std::string what = describe(*found);
    const bool memory =
        is_one_of_rules(found->rule, {Rule::kColumnMajor, Rule::kColumnMajorByBatch, Rule::kOtherStride});
    if (memory && is_product(v_.op())) blame("H07", "the product is right but " + what);
    const bool halves = is_one_of_rules(found->rule, {Rule::kHalvesSwapped, Rule::kInterleaved, Rule::kDeinterleaved});
    if (halves && is_rope(v_.op())) blame("H03", "the rotation is right but its dimensions are not: " + what);
    return tell(what);
  }

  static bool is_one_of_rules(Rule rule, std::initializer_list<Rule> rules) {
    return std::ranges::find(rules, rule) != rules.end();
  }

  // A head of the scores, the probabilities or the output that holds what is right for another head took that head's
  // query along. With a wrong key and value head the query stays its own: that is never found here, and no head map is
  // blamed for an exchange of whole heads.
  void blame_mixup(const Mixup& found) {
    if (!v_.is_cache()) return;
    const std::string what = describe(found, v_);
    const bool next = found.axis == Mixup::Axis::kPosition && std::llabs(found.shift) == 1;
    if (next && v_.step().phase == Phase::kDecode) {
      blame("H08", what + ": in decode the cache is written a slot beside the right one");
    } else {
      blame("H01", what + ": the cache is addressed wrongly");
    }
  }

  bool law() {
    if (v_.op() == Op::kProbs) {
      if (const std::optional<double> power = find_power(v_, rows_)) {
        blame("H02", "each probability is the expected one to the power " + digits(*power, 4) +
                         ", made to sum to 1: the scores' scale is wrong by that factor");
        return tell("the expected values to the power " + digits(*power, 4) + ", renormalised");
      }
    }
    const KeptLength kept = is_rope(v_.op()) ? find_kept_length(v_, wrong_) : KeptLength::kNone;
    if (kept == KeptLength::kPairs) {
      blame("H03", "each pair of dimensions has the expected length and another direction: its angle is wrong");
      return tell("pairs of dimensions turned by a wrong angle");
    }
    if (kept == KeptLength::kHeads) {
      blame("H03", "each head has the expected length and another direction, its pairs do not: others were turned");
      return tell("heads turned, but in other pairs of dimensions");
    }
    return false;
  }

  void coarser_type() {
    pattern_.rounded_to = find_coarser_type(v_, wrong_);
    if (pattern_.rounded_to) tell("every value is a " + std::string(name(*pattern_.rounded_to)));
  }

  void trend(bool explained) {
    // Probabilities get smaller by themselves, the more slots there are.
    if (const std::optional<Growth> growth = v_.op() == Op::kProbs ? std::nullopt : find_growth(v_)) {
      pattern_.power_of_position = growth->power;
      tell(!growth->power ? "grows with position" : "grows as position to the power " + digits(*growth->power, 2));
    }
    if (explained || pattern_.rounded_to) return;
    if (const std::optional<double> size = find_least_wrong_size(v_)) {
      tell("only where |expected| >= " + digits(*size, 4));
    }
  }

  bool several_positions() const {
    return std::ranges::any_of(wrong_, [&](const Element& e) {
      return v_.sequence_position(e.row) != v_.sequence_position(wrong_.front().row);
    });
  }
  bool several_rows() const {
    return std::ranges::any_of(wrong_, [&](const Element& e) { return e.row != wrong_.front().row; });
  }

  const Values& v_;
  Pattern& pattern_;
  std::vector<std::int64_t> rows_;  // a sample of those with wrong elements
  std::vector<Element> wrong_;      // the wrong elements of these
  std::vector<std::string> phrases_;
};

bool holds_no_number(const Values& values) {
  for (std::int64_t row = 0; row < values.num_rows(); ++row) {
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (values.compared(row, c) && !std::isnan(values.actual(row, c))) return false;
    }
  }
  return true;
}

// What does not fit is left out, axes that are wrong throughout before others.
std::string compose(std::vector<std::string> phrases, const std::vector<std::string>& places) {
  const auto length = [&] {
    std::size_t sum = 0;
    for (const std::string& phrase : phrases) sum += phrase.size() + 2;
    return sum;
  };
  const std::size_t facts = phrases.size();
  for (const std::string& place : places) phrases.push_back(place);
  for (std::size_t i = phrases.size(); i-- > facts && length() > kMostCharacters;) {
    const bool throughout = phrases[i].starts_with("every ") && phrases[i].find(" but ") == std::string::npos;
    if (throughout) phrases.erase(phrases.begin() + static_cast<std::ptrdiff_t>(i));
  }
  while (phrases.size() > 1 && length() > kMostCharacters) phrases.pop_back();
  return joined(phrases, ", ");
}

}  // namespace

Pattern find_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                     const ModelConfig& config) {
  Pattern pattern;
  const bool fits = compare::shape_fits(op, actual.shape, step, config) &&
                    compare::shape_fits(op, expected.shape, step, config) && expected.shape[1] >= actual.shape[1] &&
                    expected.value.size() == static_cast<std::size_t>(num_elements(expected.shape));
  if (!fits) return pattern;
  const Values values(op, actual, expected, step, config);
  if (values.num_wrong() == 0) return pattern;
  pattern.share_wrong = static_cast<double>(values.num_wrong()) / static_cast<double>(values.num_compared());
  pattern.holds_no_number = holds_no_number(values);

  std::vector<std::string> places;
  for (const Axis& axis : axes_of(values)) {
    pattern.axes.push_back(axis.facts());
    std::string words = axis.describe();
    if (!words.empty()) places.push_back(std::move(words));
  }
  if (places.empty()) places.push_back("one element");
  pattern.text = compose(Finder(values, pattern)(), places);
  return pattern;
}

std::string describe_pattern(Op op, const TensorView& actual, const Expectation& expected, const Step& step,
                             const ModelConfig& config) {
  return find_pattern(op, actual, expected, step, config).text;
}

}  // namespace qdiff::pattern

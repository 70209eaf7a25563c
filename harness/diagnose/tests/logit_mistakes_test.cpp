// Mistakes in logits by their size, beside whole forward passes.
#include "harness/diagnose/far/logit_mistakes.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

constexpr std::int64_t kTokens = 6;

// The passes of right code beside the logits of an honest engine.
class Passes {
 public:
  explicit Passes(const Precision& precision = kF32) : precision_(precision), engine_(precision) {
    passes_.run();
    REQUIRE(passes_.targets().size() == 1);
  }
  const Target& target() const { return passes_.targets().begin()->second; }
  const Planting& planting() const { return passes_; }
  std::vector<double> with(LogitMistake mistake, double dose) const {
    return with_mistake(mistake, dose, passes_, target());
  }
  bool finds(LogitMistake mistake, double dose) const { return is_found(with(mistake, dose), passes_, target()); }

 private:
  Precision precision_;
  ToyEngine engine_;
  ToySubject subject_{engine_, toy_case({kTokens})};
  std::set<TensorKey> targets_ = {{0, {Op::kLmHead}}};
  ModelConfig config_ = toy_config();
  std::vector<VariantFacts> no_bugs_;
  ReferenceMaker make_reference_ = [](const Precision& of) { return std::make_unique<ToyEngine>(of); };
  ProgressReport silent_;
  FreeRankingQuery query_{.trace = subject_.tensors,
                          .subject = subject_.subject,
                          .targets = targets_,
                          .precision = precision_,
                          .config = config_,
                          .catalogue = no_bugs_,
                          .make_reference = make_reference_,
                          .progress = silent_,
                          .probing = false};
  Planting passes_{query_};
};

// Which of the elements a mistake changes.
std::set<std::size_t> changed(const Passes& passes, LogitMistake mistake) {
  constexpr double kFarBeyondRounding = 1000.0;
  const std::vector<double> wrong = passes.with(mistake, kFarBeyondRounding);
  std::set<std::size_t> elements;
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    if (wrong[i] != passes.target().candidate()[i]) elements.insert(i);
  }
  return elements;
}

TEST_CASE("a mistake changes one logit, the last row or all rows", "[logit_mistakes]") {
  const Passes passes;
  const auto vocab = static_cast<std::size_t>(toy_config().vocab), last = (kTokens - 1) * vocab;
  CHECK(changed(passes, LogitMistake::kOneLogit) == std::set<std::size_t>{last + vocab / 2});
  const std::set<std::size_t> row = changed(passes, LogitMistake::kOneRow);
  CHECK(row.size() == vocab);
  CHECK(*row.begin() == last);
  CHECK(changed(passes, LogitMistake::kOneStep).size() == kTokens * vocab);
  for (LogitMistake mistake : kLogitMistakes) {
    INFO(facts(mistake).name << ", " << facts(mistake).unit);
    CHECK_FALSE(facts(mistake).name.empty());
    CHECK(passes.with(mistake, 0.5).size() == kTokens * vocab);
  }
}

TEST_CASE("one logit is moved by deviations of its row, the others by their size", "[logit_mistakes]") {
  const Passes passes;
  const Target& target = passes.target();
  const auto vocab = static_cast<std::size_t>(toy_config().vocab), middle = (kTokens - 1) * vocab + vocab / 2;
  const double deviation = passes.planting().rounding_of_row(target, kTokens - 1);
  CHECK(deviation > 0.0);
  CHECK(passes.with(LogitMistake::kOneLogit, 1000.0)[middle] ==
        round_to(DType::kF32, target.gold()[middle] + 1000.0 * deviation));
  CHECK(passes.with(LogitMistake::kOneRow, 0.25)[middle] == round_to(DType::kF32, 1.25 * target.candidate()[middle]));
  CHECK(passes.with(LogitMistake::kOneStep, 0.25)[0] == round_to(DType::kF32, 1.25 * target.candidate()[0]));
}

TEST_CASE("a wrong logit is stored as the others are", "[logit_mistakes]") {
  const Passes passes(plain_precision(DType::kBF16));
  for (LogitMistake mistake : kLogitMistakes) {
    for (double value : passes.with(mistake, 0.3)) CHECK(value == round_to(DType::kBF16, value));
  }
}

TEST_CASE("right logits are not found, and a mistake is from one dose on", "[logit_mistakes]") {
  const Passes passes;
  const std::vector<double> right(passes.target().candidate().begin(), passes.target().candidate().end());
  CHECK_FALSE(is_found(right, passes.planting(), passes.target()));
  for (LogitMistake mistake : kLogitMistakes) {
    INFO(facts(mistake).name);
    const double most = mistake == LogitMistake::kOneLogit ? 1e6 : 1.0;
    const auto smallest = smallest_dose(1e-9, most, 20, [&](double dose) { return passes.finds(mistake, dose); });
    REQUIRE(smallest);
    CHECK(*smallest < most);
    CHECK(passes.finds(mistake, *smallest));
    CHECK(passes.finds(mistake, 2.0 * *smallest));
    CHECK_FALSE(passes.finds(mistake, 0.9 * *smallest));
  }
}

TEST_CASE("the smallest dose is halved for as often as asked", "[logit_mistakes]") {
  int asked = 0;
  const auto from = [&](double least) {
    return [&asked, least](double dose) {
      ++asked;
      return dose >= least;
    };
  };
  CHECK_THAT(*smallest_dose(1e-6, 1.0, 30, from(0.01)), Catch::Matchers::WithinRel(0.01, 1e-6));
  CHECK(asked == 31);
  // Each halving is one of the logarithm, and what is given back was found.
  CHECK_THAT(*smallest_dose(1e-4, 1.0, 1, from(1e-3)), Catch::Matchers::WithinRel(1e-2, 1e-9));
  CHECK_FALSE(smallest_dose(1e-6, 1.0, 30, from(2.0)));
  CHECK_FALSE(smallest_dose(1e-6, 1.0, 30, [](double dose) { return std::isnan(dose); }));
}

}  // namespace
}  // namespace qdiff::diagnose

// What solvers ask of a scene: how far an element lies from what is expected, which rows are wrong, what was recorded.
#include "harness/explain/scene.h"

#include <limits>

#include "cmake/catch2.h"
#include "harness/explain/domain.h"
#include "harness/explain/rows.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// up_proj [2, T, 64] of layer 1 in all five steps, in a prefill of twelve tokens of which the first two of row 1 are
// padding. `change` wrongs each.
struct SceneOf {
  ClosedForm oracle{closed_form_config()};
  Recorded recorded;
  std::vector<Instance> instances;

  SceneOf(const std::vector<bool>& wrong, const std::function<void(int step, Values&)>& change)
      : recorded(oracle, 240, at(Op::kUpProj, [&](const auto&, const Step& step, Values right) {
                   change(step.index, right);
                   return right;
                 })) {
    for (const Step& step : recorded.steps) {
      const TensorKey key{step.index, {Op::kUpProj, 1}};
      instances.push_back({.key = key,
                           .span = {key},
                           .actual = recorded.store.get(key),
                           .recorded = &recorded.store,
                           .steps = &recorded.steps,
                           .wrong = wrong[static_cast<std::size_t>(step.index)]});
    }
  }
  Scene scene() { return Scene(oracle, kPrecision, instances); }
};

const std::vector<bool> kAllWrong(5, true);

TEST_CASE("an error counts in deviations, and what is not finite has to agree", "[scene]") {
  SceneOf of(kAllWrong, [](int, Values& values) {
    values[0] = kNaN;
    values[1] = kInfinity;
    values[2] = -kInfinity;
    values[3] = 3.0;
    values[4] = 1.0;
  });
  Scene scene = of.scene();
  const Instance& instance = scene.instances()[1];
  Expectation expected = blank(scene.right(instance));
  const auto deviations = [&](std::size_t element, double gold, float independent = 0.0F, float shared = 0.0F) {
    expected.value[element] = gold;
    expected.sigma_independent[element] = independent;
    expected.sigma_shared[element] = shared;
    return scene.deviations(instance, expected, element);
  };
  CHECK(deviations(0, kNaN) == 0.0);
  CHECK(deviations(0, 1.0) == 1e12);
  CHECK(deviations(0, kInfinity) == 1e12);
  CHECK(deviations(1, kInfinity) == 0.0);
  CHECK(deviations(1, -kInfinity) == 1e12);
  CHECK(deviations(1, 1.0) == 1e12);
  CHECK(deviations(1, 3.3e38) == 1e12);
  CHECK(deviations(1, 1e39) == 0.0);  // no bfloat16 holds it
  CHECK(deviations(2, -kInfinity) == 0.0);
  CHECK(deviations(2, kNaN) == 1e12);
  // 0.5 off; the spacing of bfloat16 at 2.5 is 2^-6, and its rounding has a variance of a twelfth of that squared.
  const double rounding = 0x1p-6 / std::sqrt(12.0);
  CHECK(deviations(3, 2.5) == Approx(0.5 / rounding));
  CHECK(deviations(3, 3.0) == 0.0);
  CHECK(deviations(3, 2.5, 0.3F, 0.4F) == Approx(0.5 / std::hypot(0.5, rounding)).epsilon(1e-6));
  CHECK(deviations(3, 2.5, std::numeric_limits<float>::quiet_NaN()) == 1e12);
  expected.unknown.assign(expected.value.size(), 0);
  expected.unknown[3] = 1;
  CHECK(deviations(3, 3.0) == 1e12);
  CHECK(deviations(4, 1.0) == 0.0);
}

TEST_CASE("rows are wrong by their error, and padding is none", "[scene]") {
  SceneOf of({true, false, true, true, true}, [](int step, Values& values) {
    if (step == 0) values[5 * 64 + 3] *= 1e3;       // one element makes its row stand out
    if (step == 0) values[(12 + 1) * 64] += 1e3;    // of padding
    if (step == 2) values[64 + 7] *= 1.0 + 0x1p-6;  // a little: no row stands out
    for (double& x : values) x *= step == 3 ? 2.0 : 1.0;
  });
  Scene scene = of.scene();
  const auto rows = [&](int step) { return scene.wrong_rows(scene.instances()[static_cast<std::size_t>(step)]); };
  CHECK(scene.real_rows(scene.instances()[0]).size() == 12 + 10);
  CHECK(rows(0) == std::vector<std::int64_t>{5});
  CHECK(rows(1).empty());
  CHECK(rows(2) == std::vector<std::int64_t>{0, 1});
  CHECK(rows(3) == std::vector<std::int64_t>{0, 1});
  CHECK(scene.is_wrong(scene.instances()[0], 5 * 64 + 3));
  CHECK_FALSE(scene.is_wrong(scene.instances()[0], 5 * 64 + 4));
  // Of seven rows (5; 0, 1; 0, 1; 0, 1) so many, at equal distances.
  const auto sampled = [&](std::size_t most) {
    std::vector<std::pair<int, std::int64_t>> at;
    for (const SampledRow& row : sample_wrong_rows(scene, most)) at.emplace_back(row.instance->key.step, row.row);
    return at;
  };
  using At = std::vector<std::pair<int, std::int64_t>>;
  CHECK(sampled(7) == At{{0, 5}, {2, 0}, {2, 1}, {3, 0}, {3, 1}, {4, 0}, {4, 1}});
  CHECK(sampled(9) == sampled(7));
  CHECK(sampled(3) == At{{0, 5}, {2, 1}, {3, 1}});
}

TEST_CASE("what was recorded has the shape of its step", "[scene]") {
  SceneOf of(kAllWrong, [](int, Values&) {});
  const TensorKey misshapen{2, {Op::kGateProj, 1}}, missing{2, {Op::kAct, 1}}, own{2, {Op::kUpProj, 1}};
  of.recorded.store.tensors[misshapen] = Tensor(DType::kBF16, {2, 1, 63});
  of.recorded.store.tensors.erase(missing);
  Scene scene = of.scene();
  const Instance& instance = scene.instances()[2];
  CHECK(scene.index_of(instance) == 2);
  CHECK(scene.is_recorded(instance, own));
  CHECK(scene.recorded(instance, own) == scene.actual(instance));
  CHECK_FALSE(scene.recorded(instance, misshapen).has_value());
  CHECK_FALSE(scene.is_recorded(instance, missing));
  CHECK_FALSE(scene.is_recorded(instance, {-1, own.id}));
  CHECK_FALSE(scene.is_recorded(instance, {5, own.id}));
  CHECK(scene.is_recorded(instance, {4, own.id}));
}

TEST_CASE("tokens that gained are counted by step, batch row and token", "[domain]") {
  SceneOf of(kAllWrong, [](int, Values&) {});
  Scene scene = of.scene();
  std::vector<Gains> gains;
  for (const Instance& instance : scene.instances()) {
    gains.push_back({&instance, std::vector<float>(scene.right(instance).value.size(), 0.0F)});
  }
  for (std::size_t c = 0; c < 64; ++c) {
    for (std::size_t row : {0U, 3U, 12U, 14U}) gains[0].of_element[row * 64 + c] = 0.5F;  // row 12 is padding
    gains[2].of_element[64 + c] = c < 32 ? 1.0F : -0.25F;
  }
  gains[4].of_element[1] = 10.0F;
  CHECK(tokens_gained(scene, gains, {}, 20.0) == 4);
  CHECK(tokens_gained(scene, gains, {}, 30.0) == 3);
  CHECK(tokens_gained(scene, gains, {}, 5.0) == 5);
  CHECK(gain_within(scene, gains, {}) == Approx(3 * 32.0 + 24.0 + 10.0));
  Domain decode;
  decode.choices[static_cast<std::size_t>(Axis::kPhase)] = only_in(Phase::kDecode);
  CHECK(tokens_gained(scene, gains, decode, 5.0) == 2);
  CHECK(gain_within(scene, gains, decode) == Approx(34.0));
  Domain late;
  late.choices[static_cast<std::size_t>(Axis::kColumn)] = {{Selection::Kind::kFrom, 32, {}}, 1.0};
  CHECK(gain_within(scene, gains, late) == Approx(3 * 16.0 - 8.0));
  CHECK(tokens_gained(scene, gains, late, 10.0) == 3);
}

}  // namespace
}  // namespace qdiff::explain

// The experiment behind the numbers that tell which value of a wrongly recorded element an engine went on with
// (harness/diagnose/elements_used.h): one element of one tensor of an honest engine's recording is spoiled, and each
// tensor that was computed from it is weighed twice. As it was recorded, it was computed with the right value; with
// what an engine that had held the spoiled value would have put there, with the recorded one.
#include "harness/diagnose/elements_used.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/calibration/quantiles.h"
#include "harness/cli/tests/trace_sample.h"
#include "harness/compare/judge.h"
#include "harness/contract/overlay.h"
#include "harness/contract/splitmix64.h"

namespace qdiff {
namespace {

using calibration::quantiles;
using diagnose::RowJudgement;
using diagnose::Subject;
using diagnose::Telling;
using diagnose::UnderBoth;
using diagnose::ValueUsed;

struct Weighed {
  std::vector<UnderBoth> elements;
  ValueUsed truth;
};

struct Measured {
  std::vector<double> honest;  // of each tensor the largest error in deviations
  int spoiled = 0, seen = 0;   // recordings, and those of them in which an element is put right
  std::vector<Weighed> readers;
};

// What a recorder may have in one place: no number, another sign, another size, another element's value.
double spoiled_value(const TensorView& view, std::int64_t element, SplitMix64& random) {
  const double right = load_element(view.data, view.dtype, static_cast<std::size_t>(element));
  switch (random.below(4)) {
    case 0:
      return std::numeric_limits<double>::quiet_NaN();
    case 1:
      return -right;
    case 2:
      return right * (random.below(2) == 0 ? 1.25 : 4.0);
    default:
      return load_element(view.data, view.dtype, static_cast<std::size_t>(random.below(num_elements(view.shape))));
  }
}

class Experiment {
 public:
  Experiment(const std::string& model, DType dtype, const Keep& keep, std::uint64_t seed)
      : weights_(model::open_model(model)),
        input_(cases::input_of(small_case(model, seed), weights_->config())),
        oracle_(reference::make_oracle(*weights_, {.num_threads = 1})),
        random_(seed) {
    const auto engine = optimized::cpu::make_engine(*weights_, {.dtype = dtype, .num_threads = 1});
    const auto session = engine->open({.batch = input_.steps.front().batch(),
                                       .capacity = input_.capacity,
                                       .left_padding = input_.steps.front().left_padding,
                                       .poison = Poison::kNaN});
    for (const Step& step : input_.steps) {
      trace::RecordingSink sink(recording_, step.index);
      session->run_step(step, &sink);
      steps_.insert(step.index);
    }
    for (const TensorKey& key : recording_.keys()) {
      if (!keep(key.id)) recording_.erase(key);
    }
    rows_.emplace(*oracle_, engine->precision());
    for (const TensorKey& key : recording_.keys()) {
      if (arithmetic_of(key.id.op) == Arithmetic::kAppend) continue;
      for (const TensorKey& input : compare::recorded_inputs(span_of(key, recording_), recording_, config())) {
        readers_[input].push_back(key);
      }
      keys_.push_back(key);
    }
  }

  void measure(int recordings, Measured& into) {
    for (int i = 0; i < recordings; ++i) {
      const TensorKey key = keys_[static_cast<std::size_t>(random_.below(std::ssize(keys_)))];
      if (readers_[key].empty()) continue;  // logits
      measure_honest(key, into);
      const TensorView view = recording_.get(key);
      Tensor tensor = Tensor::copy_of(view);
      const std::int64_t element = random_.below(num_elements(view.shape));
      tensor.set(element, spoiled_value(view, element, random_));
      Overlay spoiled(recording_);
      spoiled.replace(key, std::move(tensor));
      ++into.spoiled;
      const Subject subject = subject_of(spoiled);
      const auto right = diagnose::put_right(*rows_, row_of(subject, key));
      if (!right) continue;
      ++into.seen;
      for (const TensorKey& reader : readers_[key]) {
        const RowJudgement row = row_of(subject, reader);
        into.readers.push_back({under_both(*rows_, row, key, right->tensor), ValueUsed::kRight});
        Overlay used(spoiled);
        used.replace(reader, rows_->emulate(row, {}));
        const Subject wrong_engine = subject_of(used);
        into.readers.push_back(
            {under_both(*rows_, row_of(wrong_engine, reader), key, right->tensor), ValueUsed::kRecorded});
      }
    }
  }

 private:
  const ModelConfig& config() const { return weights_->config(); }
  std::vector<TensorKey> span_of(const TensorKey& key, const TensorStore& store) const {
    return compare::replay_span(key, store, config());
  }
  Subject subject_of(const TensorStore& store) const {
    Subject subject{&input_, "trace", &store, &store, {}};
    subject.steps = steps_;
    return subject;
  }
  RowJudgement row_of(const Subject& subject, const TensorKey& key) const {
    return {&subject, key, span_of(key, *subject.inputs), {}, {}, {}};
  }

  void measure_honest(const TensorKey& key, Measured& into) {
    const Subject subject = subject_of(recording_);
    const RowJudgement row = row_of(subject, key);
    // Any tensor put in its own place leaves it as it is.
    double largest = 0.0;
    for (const UnderBoth& element : under_both(*rows_, row, key, Tensor::copy_of(row.actual()))) {
      largest = std::max(largest, std::fabs(element.held - element.right) / element.deviation);
    }
    into.honest.push_back(largest);
  }

  std::unique_ptr<WeightSource> weights_;
  CaseInput input_;
  std::unique_ptr<Oracle> oracle_;
  SplitMix64 random_;
  trace::Recording recording_;
  std::set<int> steps_;
  std::optional<diagnose::RowOracle> rows_;
  std::vector<TensorKey> keys_;
  std::map<TensorKey, std::vector<TensorKey>> readers_;
};

struct Counts {
  int told = 0, contradicted = 0, neither = 0, unknown = 0;
};

Counts count(const std::vector<Weighed>& readers, const Telling& telling, ValueUsed truth) {
  Counts counts;
  for (const Weighed& reader : readers) {
    if (reader.truth != truth) continue;
    const ValueUsed used = value_used(reader.elements, telling);
    ++(used == truth                 ? counts.told
       : used == ValueUsed::kUnknown ? counts.unknown
       : used == ValueUsed::kNeither ? counts.neither
                                     : counts.contradicted);
  }
  return counts;
}

void print(const std::string& what, const std::vector<Weighed>& readers, const Telling& telling) {
  std::cout << what;
  for (ValueUsed truth : {ValueUsed::kRight, ValueUsed::kRecorded}) {
    const Counts counts = count(readers, telling, truth);
    std::cout << (truth == ValueUsed::kRight ? ": right value used: " : "; recorded value used: ") << counts.told
              << " told, " << counts.contradicted << " contradicted, " << counts.neither << " neither, "
              << counts.unknown << " unknown";
  }
  std::cout << '\n';
}

void print(const Measured& all) {
  std::cout << all.spoiled << " spoiled, " << all.seen << " of them seen\n"
            << quantiles("largest error of an honest tensor, in deviations", all.honest);
  // Of elements that the two values lead far apart.
  std::array<std::vector<double>, 2> error, of_apart, with_right, with_recorded;
  for (const Weighed& reader : all.readers) {
    const std::size_t which = reader.truth == ValueUsed::kRight ? 0 : 1;
    double far = 0.0, right = 0.0, recorded = 0.0;
    for (const UnderBoth& element : reader.elements) {
      const double apart = element.apart(), off = std::fabs(element.held - element.right);
      if (!std::isfinite(apart) || !std::isfinite(element.held)) continue;
      if (apart <= Telling().far_apart * element.deviation) continue;
      ++far;
      error[which].push_back(off / element.deviation);
      of_apart[which].push_back(off / apart);
      right += off <= std::max(diagnose::kBeyondRounding * element.deviation, Telling().share_of_apart * apart) ? 1 : 0;
      recorded += std::fabs(element.held - element.recorded) < off ? 1 : 0;
    }
    if (far == 0.0) continue;
    with_right[which].push_back(right / far);
    with_recorded[which].push_back(recorded / far);
  }
  for (std::size_t which : {0, 1}) {
    std::cout << (which == 0 ? "right" : "recorded") << " value used:\n"
              << quantiles("error from what follows from the right value, in deviations", error[which])
              << quantiles("the same as a share of how far apart the two are", of_apart[which])
              << quantiles("share of a reader's elements that lie with the right value", with_right[which])
              << quantiles("share that lies nearer to the recorded value", with_recorded[which]);
  }
  for (double far : {1.0, 2.0, 4.0, 8.0, 16.0}) print("far apart " + digits(far, 3), all.readers, {.far_apart = far});
  for (double share : {0.0, 0.125, 0.25, 0.5}) {
    print("share of apart " + digits(share, 3), all.readers, {.share_of_apart = share});
  }
  for (double share : {0.5, 0.9, 1.0}) {
    print("share with right " + digits(share, 3), all.readers, {.share_with_right = share});
  }
  for (double share : {0.1, 0.5, 0.9}) {
    print("share with recorded " + digits(share, 3), all.readers, {.share_with_recorded = share});
  }
}

// Spoils so many recordings of each model and type.
Measured measure(const Keep& keep, int recordings, std::uint64_t seed) {
  Measured all;
  for (const char* model : {"synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64", "synthetic:toy-14x2"}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      Experiment(model, dtype, keep, seed++).measure(recordings, all);
    }
  }
  return all;
}

// At least so many readers tell which value was used, and none names the other one.
void check(const Measured& all, int least) {
  for (ValueUsed truth : {ValueUsed::kRight, ValueUsed::kRecorded}) {
    const Counts counts = count(all.readers, {}, truth);
    CHECK(counts.told >= least);
    CHECK(counts.contradicted == 0);
  }
}

TEST_CASE("which value of a wrongly recorded element was used is told, and never the other one", "[elements]") {
  check(measure(everything, 4, 171700), 20);
}

// `trace_run_tests "[.elements_whole]"`, a minute: the figures in harness/diagnose/thresholds.h.
TEST_CASE("the experiment on values used, of all tensors and of layer outputs alone", "[.][elements_whole]") {
  for (const auto& [keep, recordings] : {std::pair{Keep(everything), 200}, std::pair{Keep(layer_outputs), 40}}) {
    std::cout << (keep({Op::kQRope, 0}) ? "all tensors: " : "layer outputs alone: ");
    const Measured all = measure(keep, recordings, 181800);
    print(all);
    check(all, recordings);
  }
}

}  // namespace
}  // namespace qdiff

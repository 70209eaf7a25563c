// An engine that hands out a tensor under a wrong shape: the shape is the finding, and the run goes on.
#include <memory>
#include <string>

#include "cmake/catch2.h"
#include "harness/cases/case.h"
#include "harness/diagnose/run.h"
#include "harness/model/model.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

// Hands on what it takes, one operation's tensors as one long row.
class FlatteningSink final : public TensorSink {
 public:
  FlatteningSink(TensorSink& to, Op op) : to_(to), op_(op) {}
  void take(const TensorId& id, const TensorView& view) override {
    TensorView handed_out = view;
    if (id.op == op_) handed_out.shape = {num_elements(view.shape)};
    to_.take(id, handed_out);
  }

 private:
  TensorSink& to_;
  Op op_;
};

class FlatteningSession final : public Session {
 public:
  FlatteningSession(std::unique_ptr<Session> right, Op op) : right_(std::move(right)), op_(op) {}
  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    return with(sink, [&](TensorSink* flat) { return right_->run_embedding(step, flat); });
  }
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    return with(sink, [&](TensorSink* flat) { return right_->run_layer(layer, step, input, flat); });
  }
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    return with(sink, [&](TensorSink* flat) { return right_->run_head(step, input, flat); });
  }
  TensorView run_step(const Step& step, TensorSink* sink) override {
    return with(sink, [&](TensorSink* flat) { return right_->run_step(step, flat); });
  }

 private:
  template <typename Run>
  TensorView with(TensorSink* sink, const Run& run) {
    if (sink == nullptr) return run(nullptr);
    FlatteningSink flat(*sink, op_);
    return run(&flat);
  }
  std::unique_ptr<Session> right_;
  Op op_;
};

class FlatteningEngine final : public Engine {
 public:
  FlatteningEngine(std::unique_ptr<Engine> right, Op op) : right_(std::move(right)), op_(op) {}
  std::string name() const override { return right_->name(); }
  Device device() const override { return right_->device(); }
  const Precision& precision() const override { return right_->precision(); }
  std::unique_ptr<Session> open(const SessionOptions& options) override {
    return std::make_unique<FlatteningSession>(right_->open(options), op_);
  }
  double poison_value(Poison poison) const override { return right_->poison_value(poison); }
  void plant(const Fault& fault) override { right_->plant(fault); }

 private:
  std::unique_ptr<Engine> right_;
  Op op_;
};

TEST_CASE("a tensor of a wrong shape is a finding that says so, and nothing else is blamed", "[main]") {
  const cases::Case test_case = cases::load_case("H05-gqa");
  const auto weights = model::open_model(test_case.model);
  const auto reference = reference::make_engine(*weights, gold_precision(DType::kBF16), {});
  const auto oracle = reference::make_oracle(*weights, {});
  const CaseInput input = cases::input_of(test_case, weights->config());
  for (Op op : {Op::kEmbedTokens, Op::kInputLayernorm, Op::kQRope, Op::kKCache, Op::kOutput, Op::kLmHead}) {
    INFO(row(op).name);
    FlatteningEngine candidate(optimized::cpu::make_engine(*weights, {.dtype = DType::kBF16, .num_threads = 2}), op);
    const findings::RunResult result =
        diagnose::run_cases(std::span(&input, 1), {candidate, *reference, *oracle, *weights}, {});
    CHECK(result.verdict == compare::Verdict::kDiverged);
    REQUIRE_FALSE(result.findings.empty());
    for (const findings::Finding& finding : result.findings) {
      CHECK(finding.tensor.op == op);
      CHECK_THAT(finding.judgement.reason, ContainsSubstring("shape"));
      CHECK_FALSE(finding.explanation.verdict.has_value());
    }
  }
}

}  // namespace
}  // namespace qdiff

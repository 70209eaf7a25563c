#include "harness/selftest/bench.h"

#include "harness/model/model.h"

namespace qdiff::selftest {

Bench::Bench(const std::string& spec, const Makers& makers, std::size_t engine, DType dtype)
    : weights_(model::open_model(spec)),
      clean_(makers.engines[engine].second(*weights_, dtype)),
      planted_(makers.engines[engine].second(*weights_, dtype)),
      gold_(makers.gold(*weights_, dtype)),
      oracle_(makers.oracle(*weights_)) {}

const VariantFacts* Bench::facts_of(FaultId variant) const { return find_variant(oracle_->catalogue(), variant); }

Bench::CaseRecording& Bench::recorded(const cases::Case& test_case) {
  const auto found = recordings_.find(test_case.id);
  if (found != recordings_.end()) return found->second;
  CaseRecording& made = recordings_[test_case.id];
  made.input = cases::input_of(test_case, config());
  made.tensors = diagnose::record_free(*clean_, made.input, static_cast<int>(config().num_layers),
                                       static_cast<int>(made.input.steps.size()) - 1, Poison::kNaN);
  return made;
}

Shifts& Bench::shifts(const cases::Case& test_case) {
  CaseRecording& of_case = recorded(test_case);
  if (!of_case.shifts) {
    of_case.shifts = std::make_unique<Shifts>(Shifts::Source{.recorded = of_case.tensors.tensors,
                                                             .steps = of_case.input.steps,
                                                             .precision = clean_->precision(),
                                                             .capacity = of_case.input.capacity,
                                                             .unwritten = clean_->poison_value(Poison::kNaN)},
                                              *oracle_);
  }
  return *of_case.shifts;
}

findings::RunResult Bench::run(const cases::Case& test_case, const Fault& fault, diagnose::Mode mode, bool probing) {
  planted_->plant(fault);
  diagnose::RunOptions options;
  options.mode = mode;
  options.probing = probing;
  options.inject = fault;
  return diagnose::run_cases(std::span(&recorded(test_case).input, 1), {*planted_, *gold_, *oracle_, *weights_},
                             options);
}

}  // namespace qdiff::selftest

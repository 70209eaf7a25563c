// qdiff_foreign: what scripts/score_foreign.py needs of this program to score the diagnosis on traces of another
// engine.
//
//   qdiff_foreign export SPEC DIR                 a synthetic model as a Hugging Face directory
//   qdiff_foreign shifts --model M --trace DIR    what each fault would move in the trace of a clean run, as JSON
//   qdiff_foreign same --model M --trace DIR ID[=value]@LAYER ID[=value]@LAYER
//                                                 whether two faults compute the same there: prints true or false
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "harness/cli/values.h"
#include "harness/diagnose/variants.h"
#include "harness/model/huggingface.h"
#include "harness/model/model.h"
#include "harness/selftest/planting.h"
#include "harness/selftest/shifts.h"
#include "harness/trace/trace_reader.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

using Document = nlohmann::ordered_json;

Document entry(const VariantFacts& facts, const Variant& dose, selftest::Site site, int layer,
               const selftest::Shift& shift, const std::vector<Op>& ops) {
  Document tensors = Document::array();
  for (Op op : ops) tensors.push_back(tensor_name({op, layer}));
  Document moves = nullptr;
  if (shift.first) moves = {{"tensor", tensor_name(shift.first->id)}, {"step", shift.first->step}};
  const bool at_a_layer = site != selftest::Site::kOutside && site != selftest::Site::kAll;
  return {{"fault", name(dose.id)},
          {"value", dose.value ? Document(*dose.value) : Document(nullptr)},
          {"site", selftest::name(site)},
          {"layer", at_a_layer ? Document(layer) : Document(nullptr)},
          {"changes", tensors},
          {"right_value", facts.right_value ? Document(*facts.right_value) : Document(nullptr)},
          {"deviations", shift.deviations},
          {"moves", moves}};
}

// The trace of a clean run, and what each fault would move in it.
struct Clean {
  std::unique_ptr<WeightSource> weights;
  std::unique_ptr<trace::Trace> trace;
  std::unique_ptr<Oracle> oracle;
  selftest::Shifts shifts;

  Clean(const std::string& model, const std::string& directory)
      : weights(model::open_model(model)),
        trace(trace::read_trace(directory)),
        oracle(reference::make_oracle(*weights, {})),
        shifts({.recorded = *trace, .steps = trace->manifest().steps, .precision = trace->manifest().precision},
               *oracle) {}
};

bool computes_the_same(const std::string& model, const std::string& directory, const std::vector<std::string>& faults) {
  Clean clean(model, directory);
  const auto facts_of = [&](const Fault& fault) -> const VariantFacts& {
    const VariantFacts* facts = find_variant(clean.oracle->catalogue(), fault.id);
    if (facts == nullptr) throw InputError(std::string(name(fault.id)) + ": the reference does not plant it");
    return *facts;
  };
  const Fault one = cli::parse_fault("ID", faults.at(0)), other = cli::parse_fault("ID", faults.at(1));
  return clean.shifts.same(facts_of(one), {one.id, one.value}, facts_of(other), {other.id, other.value},
                           one.layer.value_or(kNoLayer));
}

// Infinity has no place in JSON; what moves so far is written as the largest number.
void write_shifts(const std::string& model, const std::string& directory) {
  Clean clean(model, directory);
  selftest::Shifts& shifts = clean.shifts;
  Document entries = Document::array();
  for (const VariantFacts& facts : clean.oracle->catalogue()) {
    for (const Variant& dose : diagnose::doses(facts)) {
      for (selftest::Site site : selftest::sites_of(facts)) {
        const std::vector<int> layers = selftest::layers_of(site, clean.weights->config());
        if (layers.empty()) continue;
        selftest::Shift shift = selftest::shift_in(shifts, facts, dose, layers);
        if (!(shift.deviations <= 1e300)) shift.deviations = 1e300;
        const int layer = shift.first ? shift.first->id.layer : layers.front();
        entries.push_back(entry(facts, dose, site, layer, shift, shifts.changed_ops(facts, layer)));
      }
    }
  }
  std::puts(entries.dump(1).c_str());
}

}  // namespace
}  // namespace qdiff

int main(int argc, char** argv) {
  CLI::App app{"What scripts/score_foreign.py needs to score the diagnosis on traces of another engine"};
  app.require_subcommand(1);
  std::string spec, directory, model, trace;
  CLI::App* to_directory = app.add_subcommand("export", "Write any model as a Hugging Face directory");
  to_directory->add_option("SPEC", spec, "synthetic:NAME[,seed=N][,profile=P][,dtype=T], a .gguf file or a directory")
      ->required();
  to_directory->add_option("DIR", directory, "The directory, new or empty")->required();
  CLI::App* shifts = app.add_subcommand("shifts", "Print what each fault would move in the trace of a clean run");
  shifts->add_option("--model", model, "Hugging Face directory")->required();
  shifts->add_option("--trace", trace, "Trace of a clean run")->required();
  CLI::App* same = app.add_subcommand("same", "Print whether two faults compute the same on the trace of a clean run");
  same->add_option("--model", model, "Hugging Face directory")->required();
  same->add_option("--trace", trace, "Trace of a clean run")->required();
  std::vector<std::string> faults;
  same->add_option("FAULT", faults, "ID[=value][@layer], twice; the layer of the first one counts")
      ->required()
      ->expected(2);
  CLI11_PARSE(app, argc, argv);
  try {
    if (to_directory->parsed()) {
      qdiff::model::export_huggingface(*qdiff::model::open_model(spec), directory);
    } else if (same->parsed()) {
      std::puts(qdiff::computes_the_same(model, trace, faults) ? "true" : "false");
    } else {
      qdiff::write_shifts(model, trace);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "qdiff_foreign: %s\n", error.what());
    return 2;
  }
  return 0;
}

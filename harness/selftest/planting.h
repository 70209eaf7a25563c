// Plants every fault of the catalogue, one after the other, and keeps what the diagnosis makes of each.
#pragma once

#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/diagnose/run.h"
#include "harness/selftest/bench.h"
#include "harness/selftest/ledger.h"
#include "harness/selftest/trial.h"

namespace qdiff::selftest {

// Which of the catalogue is planted in one engine.
struct PlantingPlan {
  std::size_t engine = 0;  // of the makers
  DType dtype = DType::kBF16;
  bool thorough = true;    // every dose at every site; else each fault once, where some case shows it
  std::size_t one_in = 1;  // faults
  std::string only = {};   // what their ids begin with
  diagnose::Mode mode = diagnose::Mode::kBoth;
};

// Outside the layers where no row of a layer is changed, in all of them where the fault is one of what lies between
// layers; else in the first, the middle and the last one.
std::vector<Site> sites_of(const VariantFacts& facts);
// The layers in which a fault at that site shows: kNoLayer outside; none where the model has no such layer of its own.
std::vector<int> layers_of(Site site, const ModelConfig& config);

// What a fault in those layers moves: the earliest tensor that any of them moves far.
Shift shift_in(Shifts& shifts, const VariantFacts& facts, const Variant& dose, const std::vector<int>& layers);

// In the order of the plans, of the catalogue, of doses and of sites, whatever the number of threads.
std::vector<Trial> plant_all(const std::vector<PlantingPlan>& plans, const std::vector<cases::Case>& suite,
                             const Makers& makers, const Crew& crew);

}  // namespace qdiff::selftest

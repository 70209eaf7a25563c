// The judge and the diagnosis, judged: every known bug planted, honest engines run, and what was made of them counted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/selftest/bench.h"
#include "harness/selftest/doses.h"
#include "harness/selftest/honest.h"
#include "harness/selftest/ledger.h"
#include "harness/selftest/novel.h"
#include "harness/selftest/planting.h"
#include "harness/selftest/scoring.h"
#include "harness/selftest/spoiled.h"

namespace qdiff::selftest {

struct Settings {
  bool quick = false;
  // What the ids of the faults begin with, or "novel": faults that no table lists alone; empty: all of them, and honest
  // runs and doses.
  std::string only;
  int threads = 1;
  Ledger* ledger = nullptr;  // that hands units out and keeps what they make; none: all is done here
  // One engine on its own: each of its faults once in each type, and its honest runs. What else a selftest does is the
  // same whichever engine it is.
  bool engine_alone = false;
  // Honest engines of another room, beside the clean engine of the first maker; of an engine alone there are none.
  std::string other_honest;
  RunHonest run_other_honest;
  // Faults that no table lists, on seeds of their own. So many of each kind; nothing: by `quick`.
  MakeMistaken mistaken;
  std::optional<std::int64_t> novel, pairs, spoiled;
  std::uint64_t seed = 7'000'000;  // of the first of each kind; no test and no threshold has seen those that follow
};

struct Result {
  bool quick = false;
  bool of_some_faults = false;  // Settings::only: what was not asked for is no goal
  std::vector<Trial> trials;
  std::vector<HonestRuns> honest;
  std::vector<SmallestDose> doses;
  std::vector<NovelTrial> novel, pairs;
  std::vector<SpoiledTrial> spoiled;
  std::vector<std::string> engines;  // in which faults were planted
  double seconds = 0.0;
  std::string command;

  std::vector<Trial> trials_in(const std::string& engine) const;
  std::vector<Goal> goals() const;
  bool passed() const;
};

// Throws qdiff::InputError where no fault's id begins as the settings say.
Result run_selftest(const std::vector<cases::Case>& suite, const Makers& makers, const Settings& settings,
                    const Progress& progress);

std::string to_table(const Result& result);  // for people
std::string to_json(const Result& result);   // selftest.json

}  // namespace qdiff::selftest

// An engine's failing case made smaller, for the commands that find one, and written as a case that `qdiff run` takes.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "harness/cases/case.h"
#include "harness/cli/progress.h"
#include "harness/diagnose/run.h"
#include "harness/findings/result.h"
#include "harness/reduce/reduce.h"

namespace qdiff::cli {

// What of the inputs is judged, and how.
struct Judging {
  diagnose::Mode mode = diagnose::Mode::kBoth;
  bool probing = false;
  std::optional<std::set<int>> layers = {}, steps = {};  // none given: all of them
  diagnose::ProgressReport progress = {};
};

// Runs the main job on inputs. Throws InputError where they do not fit the model.
using RunInputs = std::function<findings::RunResult(const reduce::Inputs&, const Judging&)>;

// Judges these layers, `alone` in a model that ends with the last of them. `where` names them: "in layer 1-2 of 24".
using LayersJudge =
    std::function<findings::RunResult(const std::set<int>& layers, bool alone, const std::string& where)>;

// Of a model's layers, some after the other, the first ones with a divergence that is no rounding. None where no layer
// has one.
std::optional<findings::RunResult> first_wrong_layers(int num_layers, const LayersJudge& judge);

// The main job on `whole`, or as much of it as it takes to find its first divergence: in lockstep some layers after the
// other, until something diverges. Where nothing does, all of it in `mode`.
findings::RunResult run_to_first_divergence(const RunInputs& run, const reduce::Inputs& whole, diagnose::Mode mode,
                                            const std::string& name, Progress& progress);

// Of a reduction that shows each try.
reduce::Settings settings_of(int most_tries, Progress& progress);

// `result` is what `run` made of `whole`, and has a first divergence.
reduce::Reduced reduce_inputs(const RunInputs& run, const reduce::Inputs& whole, const findings::RunResult& result,
                              diagnose::Mode mode, int most_tries, Progress& progress);

// The same where a few tokens of `whole` fail as all of them do, which is soon known. None where they do not, or are
// not few beside the whole.
std::optional<reduce::Reduced> reduce_sample(const RunInputs& run, const reduce::Inputs& whole, diagnose::Mode mode,
                                             const std::string& name, int most_tries, Progress& progress);

// What was left of a case, or of a trace, as a case: its name, title and hypothesis tell of the failure.
cases::Case reduced_case(const reduce::Reduced& reduced, const std::string& origin);

// DIR/ID.json, with the name that what is left of `origin` has.
std::string path_of_reduced(const std::string& origin, const std::string& folder);
// Throws InputError where a file of that name is there that is no case.
void check_reduced(const std::string& origin, const std::string& folder);

// Writes the case to DIR/ID.json and returns that path.
std::string write_case(const cases::Case& test_case, const std::string& folder);

}  // namespace qdiff::cli

// Makes a failing case smaller as long as it fails in the same way.
#pragma once

#include <functional>
#include <optional>

#include "harness/findings/result.h"
#include "harness/reduce/failure.h"
#include "harness/reduce/inputs.h"

namespace qdiff::reduce {

// The first divergence of these inputs; none where they match, cannot be judged, or do not fit the model.
using Judge = std::function<std::optional<findings::Finding>(const Inputs&)>;

// How far a reduction is. How many tries it takes is not known, but about how many there are left where nothing more
// can be left out.
struct Pace {
  const Inputs& smallest;  // so far
  int in_vain = 0;         // tries since it was found
  int left = 0;            // about so many, if they are in vain too
};

struct Settings {
  // The inputs were recorded, and what was computed from them stays: rows, layers and what comes last can be left out.
  bool of_trace = false;
  int most_tries = 1000;
  // Called before each try.
  std::function<void(const Pace&)> progress = {};
};

struct Reduced {
  Inputs inputs;
  findings::Finding finding;  // their first divergence
  int tries = 0;
  bool out_of_tries = false;  // it ended for that, and something more could perhaps be left out
};

// `first` is the first divergence of `whole`. Inputs that were tried are not tried again.
Reduced reduce(const Inputs& whole, const findings::Finding& first, const Judge& judge, const Settings& settings);

}  // namespace qdiff::reduce

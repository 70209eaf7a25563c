// A theory: one way in which an operation was computed wrongly, solved for from what was recorded. It says what the
// candidate should hold under it, element by element and with the rounding that such an engine makes, so that the judge
// decides on it as on right code.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "harness/contract/oracle.h"

namespace qdiff::explain {

using qdiff::Facts;  // names and values as a report shows them, in order

struct Instance;

struct Theory {
  std::string mechanism;  // a name out of docs/mechanisms.md: "product.rows"
  Facts parameters;       // what was solved for
  // Where it holds, by axis (domain.h), behind what the candidate itself says of it; empty: everywhere.
  Facts scope;
  std::string sentence;                   // one line that a person understands
  std::optional<std::string> hypothesis;  // "H07", whose kind of mistake it is
  std::optional<Variant> variant = {};    // the known bug that it is, within its scope
  // Where it is no mistake but a rounding: the entries of compute.points that declare it.
  std::vector<DeclarablePoint> points = {};
  // Of a span: what the reference was told to compute in it, one mistake in one operation or in several.
  std::vector<Mistake> mistakes = {};
  double bits = 0.0;      // length of its description: mechanism, parameters, and scope once derived
  double evidence = 0.0;  // bits by which it describes the candidate better than right code does
};

// A theory whose scope is still to be derived.
struct Candidate {
  Theory theory;
  // What the candidate holds where the theory applies. `unknown` marks elements of which it says nothing, where right
  // code is expected. Nothing: the theory says nothing of this tensor.
  std::function<std::optional<Expectation>(const Instance&)> predict;
  // The operations that the prediction follows from, where they are not all of the instance's span: how far honest
  // engines stray goes by them.
  std::function<std::vector<TensorKey>(const Instance&)> operations = {};
  // How many tokens it has to explain. What is fitted to an input of one token says no more than that this input was
  // recorded wrongly.
  std::int64_t least_tokens = 1;
};

}  // namespace qdiff::explain

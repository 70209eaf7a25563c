// What a known bug changes, as data: which unknown of which mechanism takes which value, and where. Right code is what
// holds for every unknown that is not named.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "harness/contract/operation_table.h"
#include "harness/contract/step.h"

namespace qdiff {

// The ways in which an operation can be computed wrongly.
enum class Mechanism : std::uint8_t {
  kLookup,     // row of the embedding
  kNorm,       // scale, mean and weight of RMSNorm
  kProduct,    // how a matrix product reads its operands and stores its result
  kBias,       // of q, k and v
  kRotation,   // position, frequency and pairing of RoPE
  kMemory,     // where the cache is written and read
  kVisible,    // which slots a query sees
  kBeyondEnd,  // slots behind the last one
  kHeads,      // which key/value head a query head reads
  kScore,      // scale of q k^T
  kSoftmax,    // maximum, exponentials, denominator
  kSum,        // terms of a residual sum
  kGate,       // silu(gate) up
  kSource,     // whose weights
};
inline constexpr std::size_t kNumMechanisms = 14;
constexpr std::string_view name(Mechanism mechanism) {
  constexpr std::array<std::string_view, kNumMechanisms> kNames = {
      "lookup",     "norm",  "product", "bias",    "rotation", "memory", "visible",
      "beyond_end", "heads", "score",   "softmax", "sum",      "gate",   "source"};
  return kNames[static_cast<std::size_t>(mechanism)];
}

// An unknown of a mechanism.
enum class Parameter : std::uint8_t {
#define QDIFF_PARAMETER(enumerator, mechanism, name) enumerator,
#include "harness/contract/mechanism.inc"
};
constexpr Mechanism mechanism_of(Parameter parameter) {
  using enum Mechanism;
  constexpr Mechanism kMechanisms[] = {
#define QDIFF_PARAMETER(enumerator, mechanism, name) mechanism,
#include "harness/contract/mechanism.inc"
  };
  return kMechanisms[static_cast<std::size_t>(parameter)];
}
constexpr std::string_view name(Parameter parameter) {
  constexpr std::string_view kNames[] = {
#define QDIFF_PARAMETER(enumerator, mechanism, name) name,
#include "harness/contract/mechanism.inc"
  };
  return kNames[static_cast<std::size_t>(parameter)];
}

// The value that an unknown takes; "the number" is the change's own.
enum class Law : std::uint8_t {
#define QDIFF_LAW(enumerator, name) enumerator,
#include "harness/contract/mechanism.inc"
};
constexpr std::string_view name(Law law) {
  constexpr std::string_view kNames[] = {
#define QDIFF_LAW(enumerator, name) name,
#include "harness/contract/mechanism.inc"
  };
  return kNames[static_cast<std::size_t>(law)];
}

struct Change {
  Parameter parameter;
  Law law;
  std::optional<double> number = {};  // none: the value that the bug is planted with, where it takes one
  std::vector<Op> ops = {};           // rows where it acts; empty: all of the bug's
};

// In which steps a bug acts; in the others right code holds.
struct FaultScope {
  std::optional<Phase> phase = {};  // none: in both
  bool first_of_phase = false;      // in the session's first step of that phase alone
};

}  // namespace qdiff

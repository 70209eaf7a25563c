// Where a theory holds, derived from where it describes the candidate better than right code does. A scope is a
// conjunction of one choice for each axis; choices are found, never listed, and each costs the bits that it takes to
// say it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

enum class Axis : std::uint8_t { kPhase, kStep, kBatchRow, kToken, kHead, kColumn };
inline constexpr std::size_t kNumAxes = 6;

// Indices along one axis, and the bits that it takes to say them.
struct Choice : Selection {
  double bits = 0.0;
};

// One phase of the two.
Choice only_in(Phase phase);

// Where an element lies. A token is counted from the first real one of its row; a cache slot as it stands in memory.
using Indices = std::array<std::int64_t, kNumAxes>;
Indices indices_of(const Instance& instance, const compare::Layout& layout, std::int64_t row, std::int64_t column);

struct Domain {
  std::array<Choice, kNumAxes> choices;

  bool holds(const Indices& indices) const;
  double bits() const;
  Facts facts() const;             // as a mistake takes them
  std::string words(Op op) const;  // ", in decode alone, in heads 3 and 5"; empty: everywhere
};

// Which elements of an instance lie in a domain, row by row.
class Inside {
 public:
  // All three must outlive it.
  Inside(const Instance& instance, const compare::Layout& layout, const Domain& domain);
  // Of each column whether its element lies inside; empty where none of the row does.
  std::span<const std::uint8_t> of_row(std::int64_t row) const;

 private:
  const Instance& instance_;
  const compare::Layout& layout_;
  const Domain& domain_;
  std::vector<std::uint8_t> columns_;  // in rows that lie inside by their other axes
};

// Bits by which the theory describes each element of an instance better than right code does; negative where worse.
struct Gains {
  const Instance* instance;
  std::vector<float> of_element;
};

// Scopes of which no other choice along one axis gains more, the largest gain less its own bits first.
std::vector<Domain> derive_domains(Scene& scene, const std::vector<Gains>& gains);
double gain_within(Scene& scene, const std::vector<Gains>& gains, const Domain& domain);
// Tokens (of a step and a batch row) within the scope in which the theory gains more than so many bits.
std::int64_t tokens_gained(Scene& scene, const std::vector<Gains>& gains, const Domain& domain, double bits);

}  // namespace qdiff::explain

// Which known bug explains a wrong row: the reference with that one bug planted, evaluated on the candidate's own
// inputs, must compute what the candidate computed.
#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/compare/result.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/run.h"

namespace qdiff::diagnose {

// One recording to judge: a case in one mode.
struct Subject {
  const CaseInput* input = nullptr;
  std::string mode;                        // "lockstep" or "free"
  const TensorStore* candidate = nullptr;  // what is judged
  const TensorStore* inputs = nullptr;     // what the rows are recomputed from; differs from it in lockstep
  std::set<int> steps;                     // to be judged
};

struct RowJudgement {
  const Subject* subject = nullptr;
  TensorKey key;
  std::vector<TensorKey> span;  // the operations evaluated; the last is `key`
  compare::Judgement judgement;
  std::string pattern;  // where it is wrong, in words; empty for a match
};

// Evaluates one row on the recorded inputs of one subject and step; `variant` may be null.
Expectation evaluate(Oracle& oracle, const Subject& subject, const RowJudgement& row, const Precision& precision,
                     const Variant* variant);

// A variant once for each value that the catalogue lists; once where it takes none.
std::vector<Variant> doses(const VariantFacts& facts);

// Whether a variant can change the target of a span.
bool concerns(const VariantFacts& facts, std::span<const TensorKey> span);

// The variants that reproduce, to within rounding, every judged step of every subject at one operation of one layer:
// the diverged ones and the matching ones alike, for a bug that would have shown where the candidate is right is not
// the candidate's bug. Unjudged rows are left out. Sorted by id.
std::vector<Variant> fitting_variants(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                      const Precision& precision);

// What a set of equally good variants amounts to: one hypothesis is confirmed, several are a tie.
compare::Explanation explanation_of(const std::vector<Variant>& fits);

// "H05" of "H05.modulo"; empty for outsiders ("X.gate_up_swapped").
std::string hypothesis_of(const std::string& variant_id);

}  // namespace qdiff::diagnose

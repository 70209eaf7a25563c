// What judging a part of a recording (the embedding, a layer, the head) gave, kept for the next run on the same.
//
// A judgement follows from what was recorded, from the reference and from the judge. Of a layer it is a few hundred
// bytes a tensor, where the reference's values are sixteen an element, and reading it spares the judge's work too,
// which is a fifth of a run's.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/compare/error_profile.h"
#include "harness/compare/judge.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/pattern/pattern.h"

namespace qdiff::diagnose {

// A part as it stands before it is judged: what decides what becomes of it.
struct PartQuestion {
  std::span<const Query> queries;         // right code, for each row that can be judged
  std::span<const TensorView> actual;     // what was recorded of each
  std::span<const std::string> subjects;  // of each: its case, hypothesis and mode
  bool probing = true;                    // whether it is asked here what the inputs would show
  const Detectability& before;            // what earlier parts have shown
};

struct PartAnswer {
  struct Row {
    compare::Judgement judgement;
    pattern::Pattern pattern;
    std::optional<compare::ErrorProfile> profile;
  };
  std::vector<Row> rows;
  Detectability after;
};

class KeptParts {
 public:
  virtual ~KeptParts() = default;
  // Nothing where this part has not been judged yet: then it is judged, and keep() is called with the same question.
  virtual std::optional<PartAnswer> find(const PartQuestion& question) = 0;
  virtual void keep(const PartQuestion& question, const PartAnswer& answer) = 0;
};

}  // namespace qdiff::diagnose

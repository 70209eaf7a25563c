// Several recordings of one input: what is not equal from run to run, which no forward pass explains.
//
// A right engine may add in another order each time (atomic additions, work that is cut by timing): each recording is
// then right to within rounding. Where one is not, a value was read before it was written, or was written over.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/diagnose/subject.h"
#include "harness/trace/trace_reader.h"

namespace qdiff::diagnose {

// Throws InputError where a recording is not one of the same steps.
void check_repeats(const trace::Trace& trace, const std::vector<const trace::Trace*>& repeats);

struct Repeated {
  std::string condition;                  // for the verdict's first line
  std::set<TensorKey> unequal = {};       // in some two recordings
  std::optional<WrongTensor> wrong = {};  // the first of them, where one of its recordings is not right
};

// `subject` is the judged recording. Its tensors are held against those of the other recordings, bit by bit; the first
// that is not equal is recomputed in each of them.
Repeated compare_repeats(const trace::Trace& trace, const std::vector<const trace::Trace*>& repeats,
                         const Subject& subject, Oracle& oracle, const Precision& precision,
                         const ProgressReport& progress);

}  // namespace qdiff::diagnose

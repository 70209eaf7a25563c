// What a pipeline makes of a run's findings: which are new, which it knows and lives with. The run's own verdict stays
// as it is; this decides the exit status where a baseline, waivers or kinds of finding were named.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/findings/finding_kind.h"

namespace qdiff::findings {

// kUndecided: nothing is refused, but something could not be judged that the baseline does not know as such.
enum class AcceptanceVerdict : std::uint8_t { kAccepted, kRefused, kUndecided };
constexpr std::string_view name(AcceptanceVerdict verdict) {
  constexpr std::array<std::string_view, 3> kNames = {"accepted", "refused", "undecided"};
  return kNames[static_cast<std::size_t>(verdict)];
}

// Of one finding. Only what is new is refused.
enum class FindingState : std::uint8_t { kNew, kUnchanged, kWaived, kNotCounted };
constexpr std::string_view name(FindingState state) {
  constexpr std::array<std::string_view, 4> kNames = {"new", "unchanged", "waived", "not_counted"};
  return kNames[static_cast<std::size_t>(state)];
}

// kUsed: it excuses a finding. kUnused: these inputs would have shown what it is for, and did not. kNotShown: they
// would not have shown it. An expired waiver and an unused one refuse the run.
enum class WaiverState : std::uint8_t { kUsed, kExpired, kUnused, kNotShown };
constexpr std::string_view name(WaiverState state) {
  constexpr std::array<std::string_view, 4> kNames = {"used", "expired", "unused", "not_shown"};
  return kNames[static_cast<std::size_t>(state)];
}

// A finding of the baseline that this run does not have.
struct BaselineFinding {
  std::string case_id;
  std::string mode;
  int step = 0;
  std::string tensor;
  FindingKind kind = FindingKind::kLogic;
  std::string cause;  // a known bug, a mechanism or rounding points; empty: unexplained
};

struct WaiverOutcome {
  std::string what;     // "H05.modulo", "model.layers.*.self_attn.q_rope in case a"
  std::string reason;   // as its author wrote it
  std::string link;     // where its owner keeps track of it
  std::string expires;  // "2026-12-31", the last day on which it holds
  WaiverState state = WaiverState::kUsed;
  std::int64_t findings = 0;  // that it fits
  std::string problem = {};   // why it refuses the run, in a sentence; empty where it does not
};

struct Acceptance {
  AcceptanceVerdict verdict = AcceptanceVerdict::kAccepted;
  std::vector<std::string> reasons;         // why it is not accepted, in sentences
  std::vector<FindingKind> fail_on;         // kinds that are refused
  std::optional<std::string> baseline;      // the folder, as given
  std::vector<FindingState> states;         // of each finding of the run, in their order
  std::vector<BaselineFinding> fixed;       // judged again, and right
  std::vector<BaselineFinding> not_judged;  // of the baseline, and not judged in this run
  std::vector<WaiverOutcome> waivers;       // in the order of their file
};

}  // namespace qdiff::findings

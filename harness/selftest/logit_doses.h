// The smallest dose of a mistake in logits that is found where nothing but logits is recorded, by the judging of whole
// forward passes (harness/diagnose/far) and by other projects' rules.
#pragma once

#include <vector>

#include "harness/selftest/doses.h"
#include "harness/selftest/scoring.h"

namespace qdiff::selftest {

// One logit in deviations of what rounding does to its row; one row and one decode step relative to their size. Engine
// 0 of the makers records the first case that is for everything.
std::vector<SmallestDose> smallest_logit_doses(const std::vector<cases::Case>& suite, const Makers& makers,
                                               DType dtype);

// Ten deviations of one logit, a tenth of one row and a twentieth of one step are found in each type; of `doses` those
// in logits count.
Goal logit_dose_goal(const std::vector<SmallestDose>& doses);

}  // namespace qdiff::selftest

// The selftest's result for people: plain text in columns.
#include <cstdarg>
#include <cstdio>
#include <map>

#include "harness/diagnose/variants.h"
#include "harness/selftest/selftest.h"

namespace qdiff::selftest {
namespace {

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
std::string
formatted(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

std::string ratio_text(const Ratio& ratio) {
  if (ratio.of == 0) return "-";
  // Floored, so that 100.0 % is all of them.
  const std::int64_t per_mille = ratio.hits * 1000 / ratio.of;
  return formatted("%lld/%lld %5.1f%%", static_cast<long long>(ratio.hits), static_cast<long long>(ratio.of),
                   static_cast<double>(per_mille) / 10.0);
}

std::string score_line(const std::string& what, const Score& score) {
  return formatted("  %-22s %7lld %17s %17s %17s %17s %17s %17s %15s\n", what.c_str(),
                   static_cast<long long>(score.planted), ratio_text(score.detected).c_str(),
                   ratio_text(score.located).c_str(), ratio_text(score.named).c_str(),
                   ratio_text(score.hypothesis_named).c_str(), ratio_text(score.among_first_three).c_str(),
                   ratio_text(score.value_right).c_str(), ratio_text(score.abstained).c_str());
}

std::string group_of(const Trial& trial) {
  return is_outsider(trial) ? "X" : std::string(hypothesis_of(trial.fault.id));
}

template <typename Key>
void append_scores(const std::vector<Trial>& trials, const Key& key, std::string& text) {
  std::map<std::string, std::vector<Trial>> groups;
  for (const Trial& trial : trials) groups[key(trial)].push_back(trial);
  for (const auto& [what, group] : groups) text += score_line(what, score(group));
}

void append_engine(const Result& result, const std::string& engine, std::string& text) {
  const std::vector<Trial> trials = result.trials_in(engine);
  text += "\nFaults planted in " + engine + "\n\n";
  text += formatted("  %-22s %7s %17s %17s %17s %17s %17s %17s %15s\n", "", "planted", "found", "exact tensor",
                    "named: variant", "its hypothesis", "in first three", "value within 2%", "abstained");
  append_scores(trials, group_of, text);
  append_scores(
      trials, [](const Trial& trial) { return std::string(name(trial.dtype)); }, text);
  if (!result.quick) {
    append_scores(
        trials, [](const Trial& trial) { return std::string(name(trial.site)) + " layer"; }, text);
  }
  text += score_line("all", score(trials));

  text += "\n  planted (down), named (across)\n      ";
  for (const auto& hypothesis : kHypotheses) text += formatted("%6s", std::string(hypothesis.id).c_str());
  text += formatted("%6s%14s%11s\n", "X", "unexplained", "not found");
  const Confusion matrix = confusion(trials);
  for (std::size_t row = 0; row < kNumSubjects; ++row) {
    text += "  " + (row + 1 < kNumSubjects ? std::string(kHypotheses[row].id) : std::string("X  ")) + " ";
    for (std::size_t column = 0; column < matrix[row].size(); ++column) {
      const int width = column == kNumSubjects ? 14 : column == kNumSubjects + 1 ? 11 : 6;
      text += formatted("%*s", width, matrix[row][column] == 0 ? "." : std::to_string(matrix[row][column]).c_str());
    }
    text += "\n";
  }
}

void append_honest(const Result& result, std::string& text) {
  text += "\nHonest runs, on seeds that set no bound\n\n";
  text += formatted("  %-20s %-9s %8s %10s %8s   %s\n", "", "", "runs", "tensors", "flagged", "95 % bound of the rate");
  std::int64_t runs = 0, tensors = 0, alarms = 0;
  const auto line = [&](const std::string& what, const std::string& dtype, std::int64_t r, std::int64_t t,
                        std::int64_t a) {
    text +=
        formatted("  %-20s %-9s %8lld %10lld %8lld   %.2g %%\n", what.c_str(), dtype.c_str(), static_cast<long long>(r),
                  static_cast<long long>(t), static_cast<long long>(a), 100.0 * upper_bound(a, r));
  };
  for (const HonestRuns& honest : result.honest) {
    const auto flagged = static_cast<std::int64_t>(honest.alarms.size());
    line(honest.what, std::string(name(honest.dtype)), honest.runs, honest.tensors, flagged);
    runs += honest.runs;
    tensors += honest.tensors;
    alarms += flagged;
  }
  line("all", "", runs, tensors, alarms);
}

std::string dose_text(const std::optional<double>& dose) { return dose ? formatted("%.2g", *dose) : "never"; }

void append_doses(const Result& result, std::string& text) {
  text +=
      "\nSmallest dose found on one tensor (of bits: the most kept that are still found). \"never\": not even the\n"
      "largest dose tried; \"alarms\": the rule already flags right code there, so it tells nothing.\n\n";
  text += formatted("  %-14s %-9s %-10s %-12s %10s", "parameter", "", "unit", "tensor", "qdiff");
  for (std::size_t r = 0; r < kNumRivals; ++r) text += formatted(" %15s", name(static_cast<Rival>(r)));
  text += formatted(" %10s\n", "largest");
  for (const SmallestDose& dose : result.doses) {
    const std::string tensor = dose.tensor.substr(dose.tensor.rfind('.') + 1);
    text += formatted("  %-14s %-9s %-10s %-12s %10s", dose.parameter.c_str(), std::string(name(dose.dtype)).c_str(),
                      dose.unit.c_str(), tensor.substr(0, 12).c_str(), dose_text(dose.found).c_str());
    for (const auto& rival : dose.rivals) {
      text += formatted(" %15s", rival.alarms_on_right_code ? "alarms" : dose_text(rival.found).c_str());
    }
    text += formatted(" %10.3g\n", dose.largest_tried);
  }
}

void append_novel(const Result& result, std::string& text) {
  text +=
      "\nFaults that no table lists, planted in the reference. Named: what the report says, planted, computes the "
      "same;\n"
      "in the same words: its mechanism is the planted one.\n\n";
  text += formatted("  %-14s %7s %17s %17s %17s %17s %17s %17s\n", "", "trials", "found", "exact tensor", "named",
                    "in the same words", "not named falsely", "not refuted");
  const auto line = [&](const std::string& what, const std::vector<NovelTrial>& trials) {
    if (trials.empty()) return;
    const NovelScore of = score(trials);
    text += formatted("  %-14s %7lld %17s %17s %17s %17s %17s %17s\n", what.c_str(), static_cast<long long>(of.trials),
                      ratio_text(of.found).c_str(), ratio_text(of.exact).c_str(), ratio_text(of.named).c_str(),
                      ratio_text(of.same_mechanism).c_str(), ratio_text(of.not_false).c_str(),
                      ratio_text(of.not_refuted).c_str());
  };
  line("one", result.novel);
  line("two at once", result.pairs);
  std::map<std::string, std::vector<NovelTrial>> by_mechanism;
  for (const NovelTrial& trial : result.novel) {
    by_mechanism[std::string(facts(trial.mistakes.front().mistake.kind).name)].push_back(trial);
  }
  text += '\n';
  for (const auto& [mechanism, trials] : by_mechanism) {
    const NovelScore of = score(trials);
    text += formatted("    %-24s %17s named\n", mechanism.c_str(), ratio_text(of.named).c_str());
  }
  const SpoiledScore spoiled = score(result.spoiled);
  text += formatted("\n  right code, its recording spoiled in some elements: %s found, %s unexplained\n",
                    ratio_text(spoiled.found).c_str(), ratio_text(spoiled.unexplained).c_str());
}

void append_goals(const Result& result, std::string& text) {
  text += "\nGoals\n\n";
  for (const Goal& goal : result.goals()) {
    text += formatted("  %-4s %-58s %19s   wanted %s\n", goal.met() ? "met" : "MISS", goal.what.c_str(),
                      ratio_text(goal.reached).c_str(),
                      goal.exactly ? "all" : formatted("%.0f %%", 100.0 * goal.wanted).c_str());
  }
}

void append_undetectable(const Result& result, std::string& text) {
  std::map<std::string, std::vector<std::string>> listed;
  for (const Trial& trial : result.trials) {
    if (trial.detectable()) continue;
    const std::string what =
        to_string(trial.fault) + " (" + name(trial.site) + ", " + formatted("%.2g deviations)", trial.shift.deviations);
    listed[trial.planted_in + ", " + std::string(name(trial.dtype))].push_back(what);
  }
  if (listed.empty()) return;
  text += formatted("\nNot detectable: no case moves any recorded element by more than %g deviations; not counted\n",
                    kDetectable);
  for (const auto& [where, faults] : listed) {
    text += "  " + where + ":\n";
    for (const std::string& fault : faults) text += "    " + fault + "\n";
  }
}

void append_misses(const Result& result, std::string& text) {
  text += "\nMisses\n";
  bool any = false;
  for (const Trial& trial : result.trials) {
    const std::string reason = reason_of_miss(trial);
    if (reason.empty()) continue;
    any = true;
    std::string cases;
    for (const std::string& test_case : trial.cases) cases += " " + test_case;
    text += "  " + trial.planted_in + ", " + std::string(name(trial.dtype)) + ", " + to_string(trial.fault) + " in" +
            cases + ": " + reason + "\n";
  }
  for (const HonestRuns& honest : result.honest) {
    for (const std::string& alarm : honest.alarms) text += "  false alarm, " + honest.what + ": " + alarm + "\n";
    any |= !honest.alarms.empty();
  }
  for (const auto* trials : {&result.novel, &result.pairs}) {
    for (const NovelTrial& trial : *trials) {
      const std::string reason = reason_of_miss(trial);
      if (reason.empty()) continue;
      any = true;
      text += "  seed " + std::to_string(trial.seed) + ", " + std::string(name(trial.dtype)) + ", " + reason + "\n";
    }
  }
  for (const SpoiledTrial& trial : result.spoiled) {
    if (trial.explained_as.empty()) continue;
    any = true;
    text += "  seed " + std::to_string(trial.seed) + ", " + std::string(name(trial.dtype)) + ", " + trial.what +
            ": explained as " + trial.explained_as + "\n";
  }
  if (!any) text += "  none\n";
}

void append_ties(const Result& result, std::string& text) {
  std::map<std::string, int> ties;
  for (const Trial& trial : result.trials) {
    if (!trial.tied) continue;
    const std::string planted(name(trial.fault.id)), named(name(*trial.conclusion.first->explanation.variant));
    ++ties[trial.planted_in + ": " + planted + " and " + named];
  }
  if (ties.empty()) return;
  text += "\nTies: the planted variant is named beside one that computes the same on these inputs; counted as named\n";
  for (const auto& [what, count] : ties) text += formatted("  %4d  %s\n", count, what.c_str());
}

}  // namespace

std::string to_table(const Result& result) {
  std::string text = std::string("qdiff selftest") + (result.quick ? " --quick" : "") + "\n";
  for (const std::string& engine : result.engines) append_engine(result, engine, text);
  if (!result.honest.empty()) append_honest(result, text);
  if (!result.doses.empty()) append_doses(result, text);
  if (!result.novel.empty() || !result.pairs.empty() || !result.spoiled.empty()) append_novel(result, text);
  append_undetectable(result, text);
  append_ties(result, text);
  append_misses(result, text);
  append_goals(result, text);
  text += formatted("\n%s in %.0f s\n", result.passed() ? "All goals met" : "GOALS NOT MET", result.seconds);
  return text;
}

}  // namespace qdiff::selftest

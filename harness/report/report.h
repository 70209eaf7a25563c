// Reports of a run: JSON and JUnit XML for programs, text for the person who asked.
//
// Field names and meanings are fixed by docs/trace-format.md, section 5; schema/ holds them as JSON Schemas. Equal
// results give equal bytes, but for the fields `seconds` and `time`. Text that comes from files (names, titles,
// reasons) can change neither the structure of a report nor a terminal's state.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "harness/findings/result.h"

namespace qdiff::report {

// Metrics carry six significant digits; single elements (actual, expected) nine, which tell any two float32 numbers
// apart. NaN and infinities are the strings "NaN", "Infinity" and "-Infinity".
std::string report_json(const findings::RunResult& result);
// {"points": {…}}, as it stands in a manifest's compute.
std::string points_json(const std::map<std::string, std::string>& points);
std::string hypothesis_json(const findings::HypothesisResult& hypothesis);

// One suite: the verdict, each case, and each hypothesis in each case (classname "H05", name the case's id), which
// fails where a finding of that case speaks for the hypothesis, and is skipped where the inputs were blind to it.
std::string junit_xml(const findings::RunResult& result);

struct TerminalOptions {
  bool color = false;
  int width = 100;      // columns; text that repeats a command or names a tensor is never cut
  std::string reports;  // the folder that holds the reports; empty: none were written
  bool all = false;     // the ten hypotheses and every cause, whatever was found
};
std::string format_terminal(const findings::RunResult& result, const TerminalOptions& options);

// GitHub Actions: one workflow command for the first divergence and for each other explanation, each on a line of its
// own (a warning for what is inconclusive, none for a match), and a page of Markdown for the job's summary.
std::string github_commands(const findings::RunResult& result);
std::string github_summary(const findings::RunResult& result);
// The runner obeys every line of output that looks like a command; these do not look so any more.
std::string without_github_commands(std::string_view text);

// Throws qdiff::InputError where something that qdiff did not write stands in the way of the reports of a run in `out`.
void check_reports(const std::filesystem::path& out);

// Writes report.json, report.html, tensors.jsonl, hypotheses/H01.json to H10.json and junit.xml under `out`, which is
// made if need be. Each file is replaced as a whole or not at all; other files are left alone. Throws qdiff::InputError
// where that cannot be done.
void write_reports(const findings::RunResult& result, const std::filesystem::path& out);

}  // namespace qdiff::report

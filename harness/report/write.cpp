#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "harness/contract/error.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/atomic_folder.h"
#include "harness/formats/suggest.h"
#include "harness/report/comparison.h"
#include "harness/report/json.h"
#include "harness/report/page.h"
#include "harness/report/reconciliation.h"
#include "harness/report/report.h"
#include "harness/report/report_file.h"
#include "harness/report/tensors.h"

namespace qdiff::report {
namespace {

namespace fs = std::filesystem;

struct OwnFile {
  std::string_view name, mark;  // mark as in ReportFile
};
constexpr OwnFile kComparison = {"compare.json", "\"qdiff-compare\""};
constexpr OwnFile kReconciliation = {"reconcile.json", "\"qdiff-reconcile\""};
constexpr std::string_view kHypotheses = "hypotheses";  // the folder with a file of each

std::string shown(const fs::path& path) { return formats::printable(path.string()); }

// A file of the reports. Its text is made when it is written, for all of them together may be large.
struct Report {
  fs::path path;
  std::string_view mark;  // as in ReportFile
  std::function<void(formats::AtomicFile& file)> write;
};

void write_report(const Report& report, const fs::path& path) {
  formats::AtomicFile file(path);
  report.write(file);
  file.commit();
}

// Few large pieces instead of many small ones.
void write_lines(const findings::RunResult& result, formats::AtomicFile& file) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  std::string piece;
  write_tensors(result, [&](std::string_view line) {
    piece += line;
    if (piece.size() < kPiece) return;
    file.append(piece);
    piece.clear();
  });
  file.append(piece);
}

std::vector<Report> reports_of(const findings::RunResult& result, const fs::path& out) {
  std::vector<Report> reports;
  const auto add = [&](const fs::path& path, std::string_view mark, auto text) {
    reports.push_back({path, mark, [text](formats::AtomicFile& file) { file.append(text()); }});
  };
  for (const findings::HypothesisResult& hypothesis : all_hypotheses(result)) {
    add(out / kHypotheses / (hypothesis.id + ".json"), "\"qdiff-hypothesis\"",
        [own = HypothesisRef(hypothesis)] { return hypothesis_json(own); });
  }
  add(out / "junit.xml", "<testsuite name=\"qdiff\"", [&result] { return junit_xml(result); });
  reports.push_back(
      {out / "tensors.jsonl", "{\"case\":", [&result](formats::AtomicFile& file) { write_lines(result, file); }});
  add(out / "report.html", "content=\"qdiff-page\"", [&result] { return report_page(result); });
  // Last, so that a reader who waits for it finds the others there.
  add(out / "report.json", "\"qdiff-report\"", [&result] { return report_json(result); });
  return reports;
}

// Whether the folder, if it is there, could be replaced by one of these files: it holds regular files of these names.
bool holds_nothing_but(const std::vector<Report>& files, const fs::path& out) {
  if (fs::is_symlink(out)) return false;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(out, error), end; !error && entry != end; entry.increment(error)) {
    const bool known = std::ranges::any_of(files, [&](const Report& file) {
      return entry->is_directory() ? file.path.parent_path() == entry->path() : file.path == entry->path();
    });
    if (!known || entry->is_symlink()) return false;
  }
  return !error;
}

fs::path without_trailing_slash(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return path.filename().empty() ? path.parent_path() : path;
}

bool write_in_one_piece(const std::vector<Report>& files, const fs::path& out) {
  const fs::path target = without_trailing_slash(out);
  // The program's own folder and those above it keep their names.
  if (target.filename().empty() || !fs::relative(fs::current_path(), target).string().starts_with("..")) return false;
  if (::access(target.parent_path().c_str(), W_OK | X_OK) != 0) return false;
  formats::AtomicFolder folder(target);
  std::error_code error;
  fs::permissions(folder.temporary(), fs::status(out, error).permissions(), error);
  for (const Report& file : files) {
    const fs::path path = folder.temporary() / file.path.lexically_relative(out);
    make_folder(path.parent_path());
    write_report(file, path);
  }
  return folder.commit();
}

}  // namespace

void check_own_file(const fs::path& path, std::string_view mark) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(path, error))) return;
  std::array<char, 512> start{};
  std::ifstream stream(path, std::ios::binary);
  stream.read(start.data(), start.size());
  const std::string_view text(start.data(), static_cast<std::size_t>(stream.gcount()));
  if (text.empty() || text.find(mark) != std::string_view::npos) return;  // nothing is lost with an empty file
  throw InputError(shown(path) +
                   ": the file was not written by qdiff and is kept; move it away, or name another folder with --out");
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && fs::is_directory(folder, error)) return;
  throw InputError(shown(folder) + ": the folder for reports cannot be made" +
                   (error ? " (" + error.message() + ")" : std::string(": a file has that name")) +
                   "; name another with --out");
}

void write_report_file(const ReportFile& file) {
  make_folder(file.path.parent_path());
  check_own_file(file.path, file.mark);
  formats::write_file(file.path, file.text);
}

void check_reports(const fs::path& out) {
  if (const fs::path folder = out / kHypotheses; fs::is_symlink(folder)) {
    throw InputError(shown(folder) + ": is a symbolic link, which reports do not follow; remove it");
  }
  const findings::RunResult any;  // the files are the same, whatever was found
  for (const Report& file : reports_of(any, out)) check_own_file(file.path, file.mark);
}

void write_reports(const findings::RunResult& result, const fs::path& out) {
  const std::vector<Report> files = reports_of(result, out);
  make_folder(out);
  check_reports(out);
  formats::clear_abandoned(out);
  formats::clear_abandoned(without_trailing_slash(out).parent_path());
  if (holds_nothing_but(files, out) && write_in_one_piece(files, out)) return;
  // Until the last file is there, no report tells what was found.
  const Report& last = files.back();
  std::error_code ignored;
  if (fs::is_regular_file(fs::symlink_status(last.path, ignored))) fs::remove(last.path, ignored);
  make_folder(out / kHypotheses);
  for (const Report& file : files) write_report(file, file.path);
}

void check_comparison(const fs::path& out) { check_own_file(out / kComparison.name, kComparison.mark); }

void write_comparison(const compare::PairwiseResult& result, const ComparedNames& names, const fs::path& out) {
  write_report_file({out / kComparison.name, comparison_json(result, names), kComparison.mark});
}

void check_reconciliation(const fs::path& out) {
  for (const std::string_view side : findings::kSideNames) check_reports(out / side);
  check_own_file(out / kReconciliation.name, kReconciliation.mark);
}

void write_reconciliation(const findings::Reconciliation& result, const fs::path& out) {
  for (std::size_t s = 0; s < findings::kNumSides; ++s) {
    write_reports(result.sides[s].diagnosis, out / std::string(findings::kSideNames[s]));
  }
  write_report_file({out / kReconciliation.name, reconciliation_json(result), kReconciliation.mark});
}

}  // namespace qdiff::report

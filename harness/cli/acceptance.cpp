#include "harness/cli/acceptance.h"

#include <chrono>
#include <filesystem>
#include <system_error>

#include "harness/contract/error.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;
using findings::FindingKind;

void check_is_kept(const std::string& baseline, const std::string& out) {
  std::error_code error;
  if (!fs::equivalent(baseline, out, error) || error) return;
  throw InputError(
      "--baseline '" + baseline +
      "' is where this run's reports go: they would replace it, and what is new now would be known the next "
      "time; name another folder with --out");
}

}  // namespace

std::optional<acceptance::Terms> read_terms(const AcceptanceArguments& arguments, const std::string& out,
                                            bool allow_precision) {
  if (!arguments.given()) return std::nullopt;
  acceptance::Terms terms;
  if (arguments.fail_on) {
    terms.fail_on = *arguments.fail_on;
  } else {
    terms.fail_on = {FindingKind::kLogic};
    if (!allow_precision) terms.fail_on.push_back(FindingKind::kPrecision);
  }
  if (arguments.baseline) {
    check_is_kept(*arguments.baseline, out);
    terms.baseline_folder = arguments.baseline;
    terms.baseline = acceptance::read_baseline(*arguments.baseline);
  }
  if (arguments.waivers) {
    terms.waivers_file = *arguments.waivers;
    terms.waivers = acceptance::read_waivers(*arguments.waivers);
  }
  return terms;
}

void apply_terms(const std::optional<acceptance::Terms>& terms, findings::RunResult& result) {
  if (!terms) return;
  const auto today = std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now());
  result.acceptance = acceptance::accept(result, *terms, acceptance::Date(today));
}

}  // namespace qdiff::cli

// qdiff: finds the first wrong tensor of a Qwen2.5 inference engine, and the known bug that explains it.
//
// Whatever happens, the process ends with one of the statuses of docs/trace-format.md, section 4, and each error is one
// line on standard error.
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <variant>

#include "harness/cli/commands.h"
#include "harness/cli/options.h"
#include "harness/cli/text.h"
#include "harness/contract/error.h"

namespace qdiff::cli {
namespace {

ExitStatus dispatch(const CommandLine& line) {
  if (const auto* text = std::get_if<PrintText>(&line.arguments)) {
    std::fwrite(text->text.data(), 1, text->text.size(), stdout);
    return ExitStatus::kMatch;
  }
  if (const auto* run = std::get_if<RunArguments>(&line.arguments)) return run_command(*run, line.command);
  if (const auto* record = std::get_if<RecordArguments>(&line.arguments)) return record_command(*record);
  return inspect_command(std::get<InspectArguments>(line.arguments));
}

ExitStatus report_error(const std::string& message, ExitStatus status) {
  std::fprintf(stderr, "qdiff: %s\n", one_line(message).c_str());
  return status;
}

ExitStatus guarded(int argc, const char* const* argv) {
  try {
    return dispatch(parse_command_line(argc, argv));
  } catch (const InputError& error) {
    return report_error(error.what(), ExitStatus::kBadInput);
  } catch (const CannotJudgeError& error) {
    return report_error(error.what(), ExitStatus::kCannotJudge);
  } catch (const std::bad_alloc&) {
    return report_error(
        "out of memory; take fewer or shorter cases, or a smaller model (--max-memory refuses beforehand)",
        ExitStatus::kBadInput);
  } catch (const std::exception& error) {
    return report_error(
        std::string("internal error: ") + error.what() + "; this is a defect of qdiff, please report it",
        ExitStatus::kBadInput);
  } catch (...) {
    return report_error("internal error: an unknown exception; this is a defect of qdiff, please report it",
                        ExitStatus::kBadInput);
  }
}

// Whether standard output is a pipe that nobody reads any more.
bool reader_is_gone() {
  pollfd output{.fd = STDOUT_FILENO, .events = 0, .revents = 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

// A reader that has seen enough ("qdiff run | head") is no error; a full disk is, for then the answer was lost.
ExitStatus flush_output(ExitStatus status) {
  const bool failed = std::fflush(stdout) != 0 || std::ferror(stdout) != 0;
  if (!failed || reader_is_gone() || status != ExitStatus::kMatch) return status;
  return report_error("standard output cannot be written; is the disk full?", ExitStatus::kBadInput);
}

}  // namespace
}  // namespace qdiff::cli

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a write then fails instead
  return static_cast<int>(qdiff::cli::flush_output(qdiff::cli::guarded(argc, argv)));
}

// qdiff: finds the first wrong tensor of a Qwen2.5 or Llama inference engine, and the bug that explains it.
//
// Whatever happens, the process ends with one of the statuses of docs/trace-format.md, section 4, and each error is one
// line on standard error.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <string_view>
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
  if (const auto* compare = std::get_if<CompareArguments>(&line.arguments)) return compare_command(*compare);
  if (const auto* list = std::get_if<ListArguments>(&line.arguments)) return list_command(*list);
  if (const auto* selftest = std::get_if<SelftestArguments>(&line.arguments)) {
    return selftest_command(*selftest, line.command);
  }
  if (const auto* diagnose = std::get_if<DiagnoseArguments>(&line.arguments)) {
    return diagnose_command(*diagnose, line.command);
  }
  if (const auto* reconcile = std::get_if<ReconcileArguments>(&line.arguments)) {
    return reconcile_command(*reconcile, line.command);
  }
  if (const auto* reduce = std::get_if<ReduceArguments>(&line.arguments)) return reduce_command(*reduce);
  if (const auto* fuzz = std::get_if<FuzzArguments>(&line.arguments)) return fuzz_command(*fuzz);
  if (const auto* plan = std::get_if<PlanArguments>(&line.arguments)) return plan_command(*plan);
  if (const auto* merge = std::get_if<MergeArguments>(&line.arguments)) return merge_command(*merge);
  if (const auto* bisect = std::get_if<BisectArguments>(&line.arguments)) return bisect_command(*bisect);
  if (const auto* completion = std::get_if<CompletionArguments>(&line.arguments))
    return completion_command(*completion);
  return inspect_command(std::get<InspectArguments>(line.arguments));
}

ExitStatus report_error(const std::string& message, ExitStatus status) {
  std::fprintf(stderr, "qdiff: %s\n", one_line(message).c_str());
  return status;
}

ExitStatus report_out_of_memory() {
  return report_error(
      "out of memory; take fewer or shorter cases, or a smaller model (--max-memory refuses beforehand)",
      ExitStatus::kBadInput);
}

ExitStatus report_out_of_gpu_memory() {
  return report_error(
      "the GPU is out of memory; take fewer or shorter cases, let nothing else use it, or compute the reference on the "
      "host (--reference host)",
      ExitStatus::kBadInput);
}

ExitStatus report_internal_error(std::string_view what) {
  return report_error("internal error: " + std::string(what) + "; this is a defect of qdiff, please report it",
                      ExitStatus::kBadInput);
}

ExitStatus guarded(int argc, const char* const* argv) {
  try {
    return dispatch(parse_command_line(argc, argv));
  } catch (const InputError& error) {
    return report_error(error.what(), ExitStatus::kBadInput);
  } catch (const CannotJudgeError& error) {
    return report_error(error.what(), ExitStatus::kCannotJudge);
  } catch (const std::bad_alloc&) {
    return report_out_of_memory();
  } catch (const std::exception& error) {
    const std::string_view message = error.what();
    // LibTorch's allocators throw errors of their own, with a stack trace behind the first line; the CUDA engine's
    // error names CUDA's.
    const auto says = [message](std::string_view words) { return message.find(words) != std::string_view::npos; };
    if (says("can't allocate memory")) return report_out_of_memory();
    if (says("CUDA out of memory") || says("cudaErrorMemoryAllocation")) return report_out_of_gpu_memory();
    return report_internal_error(message.substr(0, message.find('\n')));
  } catch (...) {
    return report_internal_error("an exception of no known type");
  }
}

// A program started without a standard stream would give its number to the next file it opens, and then print into that
// file. The streams are filled in with a file on which their use fails.
void fill_missing_streams() {
  for (int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) != -1 || errno != EBADF) continue;
    const int mode = stream == STDIN_FILENO ? O_WRONLY : O_RDONLY;
    if (::open("/dev/null", mode) != stream) std::_Exit(static_cast<int>(ExitStatus::kBadInput));
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
  qdiff::cli::fill_missing_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a write then fails instead, and so it does beyond the limit of a file's size
  std::signal(SIGXFSZ, SIG_IGN);
  const qdiff::ExitStatus status = qdiff::cli::flush_output(qdiff::cli::guarded(argc, argv));
  const bool bad_input = status == qdiff::ExitStatus::kBadInput;
  const int ended = bad_input ? qdiff::cli::bad_input_status(argc, argv) : static_cast<int>(status);
  std::fflush(nullptr);
  // Taking LibTorch's tables of operators apart is 0.13 of the 0.32 s that a start takes; the process takes them along.
  std::_Exit(ended);
}

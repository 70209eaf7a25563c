// Errors that end a command with a chosen exit status. Everything else that escapes is a defect.
#pragma once

#include <stdexcept>
#include <string>

namespace qdiff {

// Exit statuses, the same for every command (docs/trace-format.md, section 4).
enum class ExitStatus : int { kMatch = 0, kDiverged = 1, kBadInput = 2, kCannotJudge = 125 };

// Bad usage or bad input: nothing was judged. The message says what, where and what to do.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// This machine or this selection cannot answer: no such device, nothing left to compare.
class CannotJudgeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace qdiff

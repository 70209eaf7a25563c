// What a unit of `qdiff run` found, as text and back: everything from which a report is made, to the last bit.
#pragma once

#include <string>
#include <string_view>

#include "harness/contract/config.h"
#include "harness/findings/result.h"

namespace qdiff::shards {

// One line of JSON. The command and the time are no part of it, nor is what only a trace has, nor the catalogue, which
// follows from `config`, the model's.
std::string to_text(const findings::RunResult& result, const ModelConfig& config);

// A result that has no catalogue yet.
struct ReadResult {
  ModelConfig config;
  findings::RunResult result;
};

// Throws InputError where it is no such text, naming `source`. Several threads may call it at once.
ReadResult read_result(std::string_view text, const std::string& source);

// Results of the same model share their catalogue.
class ResultReader {
 public:
  findings::RunResult with_catalogue(ReadResult read);
  findings::RunResult read(std::string_view text, const std::string& source) {
    return with_catalogue(read_result(text, source));
  }

 private:
  std::string config_;  // of which the catalogue is
  findings::Catalogue catalogue_;
};

}  // namespace qdiff::shards

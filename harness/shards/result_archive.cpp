#include "harness/shards/result_archive.h"

#include "harness/contract/error.h"
#include "harness/shards/findings_archive.h"

namespace qdiff::shards {

QDIFF_ARCHIVED(ReadResult, config, result)

std::string to_text(const findings::RunResult& result, const ModelConfig& config) {
  return encode_text(ReadResult{config, result});
}

ReadResult read_result(std::string_view text, const std::string& source) {
  ReadResult read;
  decode_text(text, read, source);
  try {
    read.config.validate();
  } catch (const std::invalid_argument& error) {
    throw InputError(source + ": its config is none: " + error.what());
  }
  return read;
}

findings::RunResult ResultReader::with_catalogue(ReadResult read) {
  if (read.result.config != config_) {
    config_ = read.result.config;
    catalogue_ = faults_of(read.config);
  }
  read.result.catalogue = catalogue_;
  return std::move(read.result);
}

}  // namespace qdiff::shards

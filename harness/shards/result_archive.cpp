#include "harness/shards/result_archive.h"

#include "harness/contract/error.h"
#include "harness/shards/findings_archive.h"

namespace qdiff::shards {
namespace {

struct Archived {
  ModelConfig config;
  findings::RunResult result;
};

QDIFF_ARCHIVED(Archived, config, result)

}  // namespace

std::string to_text(const findings::RunResult& result, const ModelConfig& config) {
  return encode_text(Archived{config, result});
}

findings::RunResult ResultReader::read(std::string_view text, const std::string& source) {
  Archived archived;
  decode_text(text, archived, source);
  try {
    archived.config.validate();
  } catch (const std::invalid_argument& error) {
    throw InputError(source + ": its config is none: " + error.what());
  }
  if (archived.result.config != config_) {
    config_ = archived.result.config;
    catalogue_ = faults_of(archived.config);
  }
  archived.result.catalogue = catalogue_;
  return std::move(archived.result);
}

}  // namespace qdiff::shards

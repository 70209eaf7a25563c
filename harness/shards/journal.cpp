#include "harness/shards/journal.h"

#include <algorithm>
#include <system_error>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/atomic_folder.h"
#include "harness/formats/content_hash.h"
#include "harness/formats/input_file.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"
#include "harness/report/json.h"
#include "harness/report/report_file.h"

namespace qdiff::shards {
namespace {

namespace fs = std::filesystem;
using formats::Json;

constexpr std::size_t kMostBytes = std::size_t{2} << 30;
constexpr std::string_view kSuffix = ".json";
// What '/' is in the name of a file: no name of a unit has one.
constexpr char kSlash = ',';

std::string header_of(const Entry& entry) {
  return "{\"format\": \"qdiff-unit\", \"version\": 2, \"unit\": " + report::scalar_text(entry.unit) +
         ", \"identity\": " + report::scalar_text(entry.identity) +
         ", \"program\": " + report::scalar_text(entry.program) + ", \"inputs\": " + report::scalar_text(entry.inputs) +
         ", \"seconds\": " + digits(entry.seconds, 6) + ", \"content\": " + report::scalar_text(entry.content) + "}\n";
}

Entry parse_header(const std::string& line, const std::string& source) {
  const Json document = formats::parse_json(line, source);
  formats::require_format(document, "qdiff-unit", 2, "remove the file, and the unit is run again", source);
  return {.unit = formats::require_string(document, "unit", source),
          .identity = formats::require_string(document, "identity", source),
          .program = formats::require_string(document, "program", source),
          .inputs = formats::require_string(document, "inputs", source),
          .seconds = formats::require_number(document, "seconds", 0.0, kMostSeconds, source),
          .content = formats::require_string(document, "content", source)};
}

}  // namespace

fs::path Journal::file_of(const std::string& unit) const {
  std::string name = unit;
  std::ranges::replace(name, '/', kSlash);
  return folder_ / (name + std::string(kSuffix));
}

void Journal::write(const UnitResult& result) const {
  report::make_folder(folder_);
  Entry entry = result.entry;
  entry.content = formats::ContentHash().add(result.found).text();
  formats::write_file(file_of(entry.unit), header_of(entry) + result.found + '\n');
}

std::optional<UnitResult> Journal::read(const std::string& unit) const {
  const fs::path file = file_of(unit);
  if (!formats::path_exists(file)) return std::nullopt;
  const std::string source = formats::printable(file.string(), 400);
  const std::string text = formats::read_text_file(file, kMostBytes);
  const std::size_t end = text.find('\n');
  const bool has_both = end != std::string::npos && text.size() > end + 1 && text.back() == '\n';
  if (!has_both) {
    throw InputError(source + ": is no whole result of a unit; remove it, and the unit is run again");
  }
  UnitResult result{parse_header(text.substr(0, end), source), text.substr(end + 1, text.size() - end - 2)};
  if (result.entry.unit != unit) {
    throw InputError(source + ": holds the result of another unit, " + formats::printable(result.entry.unit) +
                     "; remove it, and the unit is run again");
  }
  if (formats::ContentHash().add(result.found).text() != result.entry.content) {
    throw InputError(source +
                     ": is damaged: what was found is not what was written; remove it, and the unit is run "
                     "again");
  }
  return result;
}

std::vector<std::string> Journal::units() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (name.starts_with('.') || !name.ends_with(kSuffix)) continue;
    name.resize(name.size() - kSuffix.size());
    std::ranges::replace(name, kSlash, '/');
    names.push_back(std::move(name));
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    throw InputError(formats::printable(folder_.string()) + ": cannot be read: " + error.message());
  }
  std::ranges::sort(names);
  return names;
}

void Journal::remove(const std::vector<std::string>& units) const {
  for (const std::string& unit : units) {
    std::error_code error;
    if (!fs::remove(file_of(unit), error) && error) {
      throw InputError(formats::printable(file_of(unit).string()) +
                       ": an older result cannot be removed: " + error.message());
    }
  }
  formats::clear_abandoned(folder_);
}

}  // namespace qdiff::shards

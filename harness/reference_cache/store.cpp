#include "harness/reference_cache/store.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/atomic_file.h"
#include "harness/formats/content_hash.h"
#include "harness/formats/input_file.h"
#include "harness/formats/suggest.h"

namespace qdiff::reference_cache {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTensors = ".safetensors", kText = ".json";
constexpr std::size_t kMostBytesOfText = std::size_t{1} << 30;
constexpr const char* kKeyWord = "key";
constexpr const char* kWordsSum = "checksum";                   // of all other words
constexpr std::string_view kTensorSum = "checksum of tensor ";  // before its name
constexpr std::size_t kDigits = 16;                             // of a key
constexpr std::uint64_t kBytesAround = 150;  // no less than a file needs to name a tensor, a word or a text
// What is left when room was made: often enough that it is rare, near enough that little is lost.
constexpr double kShareLeft = 0.9;

std::string sum_of(std::string_view name, std::string_view dtype, const Shape& shape,
                   std::span<const std::byte> bytes) {
  return formats::ContentHash().add(name).add(dtype).add(to_string(shape)).add(bytes).text();
}

std::string sum_of(const Words& words) {
  formats::ContentHash hash;
  for (const auto& [name, word] : words) {
    if (name != kWordsSum) hash.add(name).add(word);
  }
  return hash.text();
}

// Before a text.
std::string line_of(const std::string& key, const std::string& text) {
  return "{\"format\": \"qdiff-kept-judgements\", \"key\": \"" + key + "\", \"checksum\": \"" +
         formats::ContentHash().add(text).text() + "\"}\n";
}

bool is_key(std::string_view text) {
  return text.size() == kDigits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

struct File {
  fs::path path;
  std::int64_t seconds = 0, nanoseconds = 0;  // of its last use
  std::uint64_t bytes = 0;
};

// The values in the folder, and nothing else that somebody may have put there. Other machines may remove some
// meanwhile.
std::vector<File> files_of(const fs::path& folder) {
  std::vector<File> files;
  std::error_code error;
  for (fs::directory_iterator sub(folder, error), end; !error && sub != end; sub.increment(error)) {
    std::error_code inner;
    for (fs::directory_iterator entry(sub->path(), inner); !inner && entry != end; entry.increment(inner)) {
      const fs::path& path = entry->path();
      struct stat status {};
      const bool is_value = (path.extension() == kTensors || path.extension() == kText) &&
                            is_key(path.stem().string()) && ::lstat(path.c_str(), &status) == 0 &&
                            S_ISREG(status.st_mode);
      if (!is_value) continue;
      files.push_back(
          {path, status.st_mtim.tv_sec, status.st_mtim.tv_nsec, static_cast<std::uint64_t>(status.st_size)});
    }
  }
  return files;
}

}  // namespace

Found::Found(const fs::path& path, const std::string& key) : reader_(path) {
  if (word(kKeyWord) != key || word(kWordsSum) != sum_of(words())) throw Damaged("its words are not those written");
}

const std::string& Found::word(const std::string& name) const {
  const auto found = words().find(name);
  if (found == words().end()) throw Damaged("it says nothing of \"" + name + '"');
  return found->second;
}

const formats::SafetensorsEntry& Found::entry(const std::string& name) const {
  const formats::SafetensorsEntry* entry = reader_.header().find(name);
  if (entry == nullptr) throw Damaged("it has no tensor \"" + name + '"');
  return *entry;
}

void Found::read(const std::string& name, std::span<std::byte> destination) const {
  const formats::SafetensorsEntry& of = entry(name);
  if (of.bytes() != destination.size()) throw Damaged("tensor \"" + name + "\" has another size than it should");
  reader_.read(of, 0, destination);
  if (word(std::string(kTensorSum) + name) != sum_of(name, of.dtype_name, of.shape, destination)) {
    throw Damaged("the bytes of tensor \"" + name + "\" are not those written");
  }
}

Store::Store(const fs::path& folder, std::uint64_t most_bytes, Warn warn)
    : folder_(folder), most_bytes_(most_bytes), warn_(std::move(warn)) {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (!error && fs::is_directory(folder_, error)) return;
  throw InputError(formats::printable(folder_.string(), 400) +
                   ": the folder for the reference's values cannot be made" +
                   (error ? " (" + error.message() + ")" : std::string(": a file has that name")) + "; name another");
}

fs::path Store::file_of(const std::string& key, std::string_view suffix) const {
  return folder_ / key.substr(0, 2) / (key + std::string(suffix));
}

bool Store::find(const std::string& key, const std::function<bool(const Found&)>& use) {
  const fs::path path = file_of(key, kTensors);
  return use_file(path, [&] { return use(Found(path, key)); });
}

bool Store::find_text(const std::string& key, const std::function<bool(const std::string&)>& use) {
  const fs::path path = file_of(key, kText);
  return use_file(path, [&] {
    const std::string file = formats::read_text_file(path, kMostBytesOfText);
    const std::size_t end = file.find('\n');
    std::string text = end == std::string::npos ? "" : file.substr(end + 1);
    if (end == std::string::npos || file.substr(0, end + 1) != line_of(key, text)) {
      throw Damaged("it is not what was written");
    }
    return use(text);
  });
}

bool Store::use_file(const fs::path& path, const std::function<bool()>& use) {
  std::error_code error;
  if (!fs::is_regular_file(fs::symlink_status(path, error))) return false;
  std::string why;
  try {
    if (!use()) return false;
    ::utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // the latest use; who may not say so reads all the same
    used_.insert(path.filename());
    return true;
  } catch (const Damaged& damaged) {
    why = damaged.what();
  } catch (const InputError& unreadable) {
    // Another machine may just have made room.
    if (!fs::exists(path, error)) return false;
    why = unreadable.what();
  }
  fs::remove(path, error);
  warn_once("damaged", formats::printable(path.string(), 400) + ": a kept value of the reference is damaged (" + why +
                           "); it is computed anew");
  return false;
}

void Store::keep(const std::string& key, const Words& words, const std::vector<Part>& parts) {
  Words all = words;
  all[kKeyWord] = key;
  std::vector<formats::SafetensorsTensor> tensors;
  std::uint64_t bytes = 0;
  for (const Part& part : parts) {
    all[std::string(kTensorSum) + part.name] = sum_of(part.name, facts(part.dtype).safetensors, part.shape, part.bytes);
    tensors.push_back({part.name, part.dtype, part.shape});
    bytes += part.bytes.size() + part.name.size() + kBytesAround;
  }
  all[kWordsSum] = sum_of(all);
  for (const auto& [name, word] : all) bytes += name.size() + word.size() + kBytesAround;
  const fs::path path = file_of(key, kTensors);
  write_file(path, bytes, [&] {
    formats::SafetensorsWriter writer(path, tensors, all);
    for (const Part& part : parts) writer.append(part.name, part.bytes);
    writer.finish();
  });
}

void Store::keep_text(const std::string& key, const std::string& text) {
  const fs::path path = file_of(key, kText);
  write_file(path, text.size() + kBytesAround, [&] { formats::write_file(path, line_of(key, text) + text); });
}

void Store::write_file(const fs::path& path, std::uint64_t bytes, const std::function<void()>& write) {
  if (!writes_) return;
  try {
    if (!has_room_for(bytes)) {
      return warn_once("full", formats::printable(folder_.string(), 400) +
                                   ": what this run needs of the reference is more than may be kept; the rest is not");
    }
    fs::create_directories(path.parent_path());
    write();
    *bytes_ += fs::file_size(path);
    used_.insert(path.filename());
  } catch (const std::exception& error) {  // InputError, or what std::filesystem throws
    writes_ = false;
    warn_once("written", std::string(error.what()) + "; no further values of the reference are kept");
  }
}

void Store::warn_once(const std::string& what, const std::string& sentence) {
  if (warned_.insert(what).second) warn_(sentence);
}

// Removes what was used longest ago, where that makes room; never what this run has used or kept itself, or a run that
// needs a little more than there is place for would find nothing the next time.
bool Store::has_room_for(std::uint64_t bytes) {
  if (bytes_ && *bytes_ + bytes <= most_bytes_) return true;
  if (bytes > most_bytes_ || is_full_) return false;
  std::vector<File> files = files_of(folder_);
  bytes_ = 0;
  for (const File& file : files) *bytes_ += file.bytes;
  if (*bytes_ + bytes <= most_bytes_) return true;
  std::erase_if(files, [this](const File& file) { return used_.contains(file.path.filename()); });
  std::ranges::sort(files, [](const File& a, const File& b) {
    return std::tie(a.seconds, a.nanoseconds, a.path) < std::tie(b.seconds, b.nanoseconds, b.path);
  });
  const auto left = static_cast<std::uint64_t>(kShareLeft * static_cast<double>(most_bytes_));
  for (const File& file : files) {
    if (*bytes_ + bytes <= left) break;
    std::error_code error;
    fs::remove(file.path, error);  // no error where another machine was first
    if (!error) *bytes_ -= file.bytes;
  }
  is_full_ = *bytes_ + bytes > most_bytes_;
  return !is_full_;
}

}  // namespace qdiff::reference_cache

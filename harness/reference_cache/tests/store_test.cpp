#include "harness/reference_cache/store.h"

#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/formats/tests/temporary_directory.h"

namespace qdiff::reference_cache {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPlenty = std::uint64_t{1} << 30;
const std::string kKey = "0123456789abcdef";

// A store whose warnings are kept.
struct Told {
  explicit Told(const fs::path& folder, std::uint64_t most_bytes = kPlenty)
      : store(folder, most_bytes, [this](const std::string& sentence) { warnings.push_back(sentence); }) {}
  std::vector<std::string> warnings = {};
  Store store;
};

void keep(Store& store, const std::string& key, const std::vector<double>& values) {
  store.keep(key, {{"word", "of " + key}},
             {{"value", DType::kF64, {static_cast<std::int64_t>(values.size())}, std::as_bytes(std::span(values))}});
}

std::vector<double> values_of(Store& store, const std::string& key) {
  std::vector<double> values;
  const bool is_there = store.find(key, [&](const Found& found) {
    CHECK(found.word("word") == "of " + key);
    values.resize(static_cast<std::size_t>(num_elements(found.entry("value").shape)));
    found.read("value", std::as_writable_bytes(std::span(values)));
    return true;
  });
  if (!is_there) values.clear();
  return values;
}

std::string text_of(Store& store, const std::string& key) {
  std::string text;
  store.find_text(key, [&](const std::string& found) {
    text = found;
    return true;
  });
  return text;
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

// Changes one byte of a file.
void flip(const fs::path& file, std::uint64_t byte) {
  std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
  stream.seekg(static_cast<std::streamoff>(byte));
  const char changed = static_cast<char>(stream.get() ^ 1);
  stream.seekp(static_cast<std::streamoff>(byte));
  stream.put(changed);
}

std::string key_of(int number) {
  std::string key = std::to_string(number);
  return std::string(16 - key.size(), '0') + key;
}

TEST_CASE("what was kept is found again, by another store too", "[store]") {
  const testing::TemporaryDirectory folder;
  Told first(folder / "cache");
  CHECK(values_of(first.store, kKey).empty());
  keep(first.store, kKey, {1.0, -0.0, 2.5});
  first.store.keep_text(key_of(7), "{\"rows\": []}");
  Told second(folder / "cache");
  CHECK(values_of(second.store, kKey) == std::vector<double>{1.0, -0.0, 2.5});
  CHECK(text_of(second.store, key_of(7)) == "{\"rows\": []}");
  CHECK(values_of(second.store, key_of(7)).empty());  // a text is no value
  CHECK(first.warnings.empty());
  CHECK(second.warnings.empty());
}

TEST_CASE("a damaged file is said once, removed, and counts as absent", "[store]") {
  const testing::TemporaryDirectory folder;
  Told told(folder.path());
  keep(told.store, kKey, {1.0, 2.0, 3.0});
  told.store.keep_text(key_of(1), "a text of some length");
  const std::vector<fs::path> files = files_in(folder.path());
  REQUIRE(files.size() == 2);
  for (const fs::path& file : files) {
    const std::uintmax_t size = fs::file_size(file);
    const bool is_text = file.extension() == ".json";
    // Every eighth byte: the header's length, its words, the tensor.
    for (std::uintmax_t byte = 0; byte < size; byte += 8) {
      INFO(file << " byte " << byte);
      Told other(folder.path());
      if (is_text) {
        other.store.keep_text(key_of(1), "a text of some length");
      } else {
        keep(other.store, kKey, {1.0, 2.0, 3.0});
      }
      flip(file, byte);
      const bool absent = is_text ? text_of(other.store, key_of(1)).empty() : values_of(other.store, kKey).empty();
      CHECK(absent);
      CHECK(other.warnings.size() == 1);
      CHECK_FALSE(fs::exists(file));
    }
  }
  keep(told.store, kKey, {1.0, 2.0, 3.0});
  const fs::path file = files_in(folder.path()).front();
  fs::resize_file(file, fs::file_size(file) - 1);
  CHECK(values_of(told.store, kKey).empty());
  REQUIRE(told.warnings.size() == 1);
  CHECK(told.warnings.front().find("computed anew") != std::string::npos);
}

TEST_CASE("another key's file under this key's name is damaged", "[store]") {
  const testing::TemporaryDirectory folder;
  Told told(folder.path());
  keep(told.store, kKey, {1.0});
  const fs::path file = files_in(folder.path()).front();
  fs::create_directories(folder / "ff");
  fs::copy(file, folder / "ff" / "ffffffffffffffff.safetensors");
  CHECK(values_of(told.store, "ffffffffffffffff").empty());
  CHECK(told.warnings.size() == 1);
}

TEST_CASE("what was used longest ago goes first, and the folder stays within its size", "[store]") {
  const testing::TemporaryDirectory folder;
  const std::vector<double> kilobyte(128);
  {
    Told before(folder.path());
    for (int i = 0; i < 8; ++i) keep(before.store, key_of(i), kilobyte);
  }
  // Used in the order of their numbers, a minute apart; 0 once more just now.
  for (int i = 0; i < 8; ++i) {
    const fs::path file = folder.path() / "00" / (key_of(i) + ".safetensors");
    fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::minutes(60 - i));
  }
  std::ofstream(folder.path() / "00" / "somebody's.txt") << std::string(9000, 'x');
  const std::uint64_t size = fs::file_size(folder.path() / "00" / (key_of(0) + ".safetensors"));
  Told told(folder.path(), 8 * size + size / 2);
  CHECK(values_of(told.store, key_of(0)) == kilobyte);
  keep(told.store, key_of(8), kilobyte);
  std::vector<int> left;
  std::uintmax_t bytes = 0;
  for (int i = 0; i < 9; ++i) {
    const fs::path file = folder.path() / "00" / (key_of(i) + ".safetensors");
    if (!fs::exists(file)) continue;
    left.push_back(i);
    bytes += fs::file_size(file);
  }
  CHECK(left == std::vector<int>{0, 3, 4, 5, 6, 7, 8});
  CHECK(bytes <= 8 * size + size / 2);
  CHECK(fs::exists(folder.path() / "00" / "somebody's.txt"));
  CHECK(told.warnings.empty());
}

TEST_CASE("a run that needs more than may be kept keeps what came first, so that the next one finds it", "[store]") {
  const testing::TemporaryDirectory folder;
  const std::vector<double> kilobyte(128);
  Told first(folder.path(), 5000);
  for (int i = 0; i < 20; ++i) keep(first.store, key_of(i), kilobyte);
  CHECK(first.warnings.size() == 1);
  Told second(folder.path(), 5000);
  int found = 0;
  for (int i = 0; i < 20; ++i) {
    if (!values_of(second.store, key_of(i)).empty()) {
      ++found;
      CHECK(i == found - 1);
    } else {
      keep(second.store, key_of(i), kilobyte);
    }
  }
  CHECK(found >= 2);
  // One that is larger than everything removes nothing.
  const std::size_t files = files_in(folder.path()).size();
  Told third(folder.path(), 5000);
  keep(third.store, key_of(30), std::vector<double>(1000));
  CHECK(files_in(folder.path()).size() == files);
}

TEST_CASE("many write and read the same at once, and nobody reads half of it", "[store]") {
  const testing::TemporaryDirectory folder;
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0, warned = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Store store(folder.path(), 60000, [&](const std::string&) { ++warned; });
      for (int i = 0; i < 40; ++i) {
        const std::vector<double> values(200, i % 10);
        std::vector<double> found;
        store.find(key_of(i % 10), [&](const Found& in) {
          found.resize(200);
          in.read("value", std::as_writable_bytes(std::span(found)));
          return true;
        });
        if (found.empty()) keep(store, key_of(i % 10), values);
        if (!found.empty() && found != values) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(warned == 0);
}

TEST_CASE("a folder that cannot be made is bad usage, one that cannot be written costs the cache alone", "[store]") {
  const testing::TemporaryDirectory folder;
  folder.write("file", "no folder");
  CHECK_THROWS_AS(Store(folder / "file", kPlenty, [](const std::string&) {}), InputError);
  Told told(folder / "cache");
  folder.write("cache/01", "in the way of a folder");
  keep(told.store, kKey, {1.0});
  keep(told.store, kKey, {1.0});
  CHECK(told.warnings.size() == 1);
  CHECK(values_of(told.store, kKey).empty());
}

}  // namespace
}  // namespace qdiff::reference_cache

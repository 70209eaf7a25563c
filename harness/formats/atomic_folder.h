// Writing a folder so that a reader sees the old one or the new one, never a mixture: files go to a folder of another
// name beside it, and the two names are then exchanged.
#pragma once

#include <filesystem>
#include <string>

namespace qdiff::formats {

class AtomicFolder {
 public:
  // Makes the folder with the other name, beside `path`, and clears what killed runs have left there. Throws
  // qdiff::InputError where that folder cannot be written.
  explicit AtomicFolder(const std::filesystem::path& path);
  // Without commit() what was written is removed and `path` stays as it was.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& temporary() const { return temporary_; }

  // Gives the folder its name; an older one of that name is removed, with all that it holds. False where it cannot be
  // exchanged (a mount point, a current folder, a file system that cannot): then nothing has changed.
  bool commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int lock_ = -1;
};

// Removes what killed runs have left in `folder`: files and folders with a temporary name of qdiff's that no living
// process holds a lock on. Never throws: what cannot be removed stays.
void clear_abandoned(const std::filesystem::path& folder);

// ".qdiff-<process>-<number>.tmp", unlike any other of this process.
std::string temporary_name();

// Takes a lock on the open file or folder of that name, which says that it is in use and lasts until the descriptor is
// closed. False where another process has it or has cleared the name; a file system without locks has nothing to say.
bool hold_temporary(int descriptor, const std::filesystem::path& path);

// Makes a folder of that name and holds it. Returns its descriptor, or -1, with errno, where it cannot be made.
int make_held_folder(const std::filesystem::path& path);

}  // namespace qdiff::formats

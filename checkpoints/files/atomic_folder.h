#pragma once
#include <filesystem>

namespace tune {

/// A folder that appears under its name whole or not at all. It is filled under path(), a hidden sibling
/// (".checkpoint-5.tmp-<pid>"); what isn't committed doesn't exist.
class AtomicFolder {
 public:
  /// Makes the hidden folder, and the parents of final_path. Error{Fault::running} when that fails.
  explicit AtomicFolder(const std::filesystem::path& final_path);
  ~AtomicFolder();  // removes the unfinished folder; never throws
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  /// Where to write now.
  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& final_path() const { return final_path_; }

  /// fsync of every file and folder, rename, fsync of the parent. A folder that has the name already is replaced in one
  /// step. A manifest must have been written as the last file.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path path_;
};

/// The hidden name under which this process fills `final_path`.
std::filesystem::path temporary_path(const std::filesystem::path& final_path);

/// Removes what dead processes left unfinished in `folder` under hidden names, and gives back its name to what one of
/// them was killed while replacing. Not while this process fills an AtomicFolder there.
void remove_leftovers(const std::filesystem::path& folder);

/// The same, only of what was to be called `final_path`.
void remove_leftovers_of(const std::filesystem::path& final_path);

/// Takes `path` away under a hidden name first, so that nobody sees it half deleted. Error{Fault::running} on failure.
void remove_atomically(const std::filesystem::path& path);

}  // namespace tune

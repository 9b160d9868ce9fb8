#pragma once
#include <filesystem>
#include <string_view>

#include "checkpoints/files/file_system.h"

namespace tune {

/// A file that appears under its name whole or not at all; written under a hidden name beside it.
class AtomicFile {
 public:
  /// Makes the parents of final_path. Error{Fault::running} when that or the hidden file fails.
  explicit AtomicFile(const std::filesystem::path& final_path);
  ~AtomicFile();  // removes the unfinished file; never throws
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  OutputFile& file() { return file_; }

  /// fsync, rename (a file of that name is replaced), fsync of the folder.
  void commit();

 private:
  std::filesystem::path final_path_;
  OutputFile file_;
  bool committed_ = false;
};

/// The whole of `text` under `path`, or what was there before.
void write_atomically(const std::filesystem::path& path, std::string_view text);

}  // namespace tune

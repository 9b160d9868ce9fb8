#pragma once
#include <filesystem>

namespace tune {

/// Held by the one process that may write into an output folder. The kernel lets go of it when the process ends,
/// however it ends, so a stale lock can't exist; the file ".lock" stays and says who had it last.
class OutputLock {
 public:
  /// Makes the folder where it is missing. Error{Fault::recipe} naming process and host when another one holds it.
  explicit OutputLock(const std::filesystem::path& output_dir);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace tune

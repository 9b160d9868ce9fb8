#include "checkpoints/files/split.h"

namespace tune {

std::vector<std::size_t> split_by_size(std::span<const std::uint64_t> item_bytes, std::uint64_t max_bytes) {
  std::vector<std::size_t> files;
  std::size_t file = 0;
  std::uint64_t used = 0;
  for (const std::uint64_t bytes : item_bytes) {
    if (used > 0 && (used > max_bytes || bytes > max_bytes - used)) {
      ++file;
      used = 0;
    }
    used += bytes;
    files.push_back(file);
  }
  return files;
}

}  // namespace tune

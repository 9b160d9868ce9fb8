#include "checkpoints/files/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "checkpoints/files/mapped_file.h"

namespace tune {

std::string xxh3_128(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string xxh3_128(std::string_view text) { return xxh3_128(std::as_bytes(std::span(text))); }

std::string xxh3_128_of_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  file.check_unchanged();
  return xxh3_128(file.bytes());
}

}  // namespace tune

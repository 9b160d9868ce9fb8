#include "checkpoints/files/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>

#include "checkpoints/files/mapped_file.h"

namespace tune {

namespace {

std::string as_text(const XXH128_hash_t& hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

}  // namespace

std::string xxh3_128(std::span<const std::byte> bytes) { return as_text(XXH3_128bits(bytes.data(), bytes.size())); }

std::string xxh3_128(std::string_view text) { return xxh3_128(std::as_bytes(std::span(text))); }

std::string xxh3_128_of_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  file.check_unchanged();
  constexpr std::size_t kPiece = 16 << 20;  // let go of behind us: a checkpoint may be larger than memory
  const std::unique_ptr<XXH3_state_t, FreeState> state(XXH3_createState());
  XXH3_128bits_reset(state.get());
  for (std::size_t at = 0; at < file.bytes().size(); at += kPiece) {
    const auto piece = file.bytes().subspan(at, std::min(kPiece, file.bytes().size() - at));
    XXH3_128bits_update(state.get(), piece.data(), piece.size());
    file.release(piece);
  }
  return as_text(XXH3_128bits_digest(state.get()));
}

}  // namespace tune

#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/safetensors/reader.h"

namespace tune {

struct Manifest;

/// A whole checkpoint: every file was compared with the manifest before this object came to be. Its files are mapped.
/// Its weights are fp32.
class LoadedCheckpoint {
 public:
  /// Opens the files of a manifest that check_files() has passed; load_checkpoint() does both.
  LoadedCheckpoint(const std::filesystem::path& folder, const Manifest& manifest);

  const std::filesystem::path& folder() const { return folder_; }
  std::int64_t step() const { return step_; }
  const std::map<std::string, std::string>& facts() const { return facts_; }

  /// Of the whole tensor of that name, weight or optimizer state; 0 when there is none.
  std::uint64_t bytes(std::string_view tensor) const;

  /// Fills `destination` with the tensor, or the slice (slice_name.h), of that name, however many processes wrote it.
  /// Error{Fault::data} when it has another size, or is not all there.
  void read(std::string_view name, std::span<std::byte> destination) const;

 private:
  struct Slice {
    std::uint64_t first = 0;    // byte of the tensor
    std::uint64_t element = 0;  // bytes of one
    std::span<const std::byte> bytes;
  };
  std::filesystem::path folder_;
  std::int64_t step_ = 0;
  std::map<std::string, std::string> facts_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::vector<Slice>, std::less<>> slices_;  // in order, of each tensor
};

/// Checks and opens one checkpoint. Error{Fault::data} naming the file and what is wrong with it.
LoadedCheckpoint load_checkpoint(const std::filesystem::path& folder);

/// The newest checkpoint of output_dir that is whole. Damaged ones are passed over; file and reason are added to
/// `warnings`. Nothing when there is no checkpoint folder at all. Error{Fault::data} when there are some but none is
/// whole: a run must not begin anew behind the user's back.
std::optional<LoadedCheckpoint> find_newest_checkpoint(const std::filesystem::path& output_dir,
                                                       std::vector<std::string>* warnings);

}  // namespace tune

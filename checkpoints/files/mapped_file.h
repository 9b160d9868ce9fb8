#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

namespace tune {

/// A regular file seen as memory, read-only. Move-only; the bytes live as long as the object, wherever it is moved.
/// Pages come from disk when they are touched, so that a model larger than memory can be opened.
/// Nothing is promised about alignment: read values through memcpy.
class MappedFile {
 public:
  /// Error{Fault::data} with the path and the system's reason when it can't be opened, isn't a regular file or can't
  /// be mapped. An empty file gives an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

  /// Error{Fault::data} when the file is now shorter than it was when it was mapped: reading the lost part would be a
  /// bus error. Called before each large read.
  void check_unchanged() const;

  /// Lets go of the memory of a part that was read; it comes from disk again when it is touched. Whoever goes through a
  /// model once calls this behind himself, so that the process doesn't grow to the size of the file.
  void release(std::span<const std::byte> part) const;

 private:
  void unmap() noexcept;

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
  int descriptor_ = -1;
};

}  // namespace tune

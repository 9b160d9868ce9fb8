#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace tune {

enum class WriteMode { create, append };  // create empties a file that is already there

/// A file being written from front to back. Short writes and interrupted calls are finished; whatever the disk refuses
/// is Error{Fault::running} with the path, the system's reason and the remedy. Move-only.
class OutputFile {
 public:
  explicit OutputFile(const std::filesystem::path& path, WriteMode mode = WriteMode::create);
  ~OutputFile();  // closes without fsync: a file that was not close()d is not promised to anyone
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);

  /// On disk when it returns: fsync, then close, both checked. Nothing may be written afterwards.
  void close();

  std::uint64_t bytes_written() const { return bytes_written_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t bytes_written_ = 0;
};

/// The whole file. Error{Fault::data} when it can't be read, isn't a regular file or is longer than max_bytes.
std::string read_text(const std::filesystem::path& path, std::uint64_t max_bytes = std::uint64_t{64} << 20);

/// Makes created, renamed and removed names in `folder` survive a power cut.
void sync_directory(const std::filesystem::path& folder);

/// fsync of a file that something else wrote.
void sync_file(const std::filesystem::path& path);

/// Bytes that this user may still write on the disk of `path`, which need not exist yet.
std::uint64_t free_disk_bytes(const std::filesystem::path& path);

/// Error{Fault::running} naming `what`, how much it needs and how much there is, when that isn't free on the disk of
/// `path`.
void require_free_disk(const std::filesystem::path& path, std::uint64_t needed_bytes, std::string_view what);

/// Makes the folder and those above it, on disk when it returns. Error{Fault::running} when it can't.
void create_folders(const std::filesystem::path& folder);

/// A copy of one file, on disk when it returns. Error{Fault::data} when it can't be read, Error{Fault::running} when
/// the copy can't be written.
void duplicate_file(const std::filesystem::path& from, const std::filesystem::path& to);

/// Error{Fault::running}: "<action>: <reason of error_number>" at `path`, with the remedy that fits the reason.
[[noreturn]] void throw_write_error(const std::filesystem::path& path, std::string_view action, int error_number);

}  // namespace tune

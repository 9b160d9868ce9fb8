#include "checkpoints/files/file_system.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "checkpoints/files/mapped_file.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::string remedy_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free disk space or write to another disk, then start again: finished checkpoints are kept";
    case EACCES:
    case EPERM:
    case EROFS:
      return "choose a folder that you may write to";
    default:
      return "check the disk, then start again: finished checkpoints are kept";
  }
}

int open_again_if_interrupted(const std::filesystem::path& path, int flags, mode_t mode = 0) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

int fsync_again_if_interrupted(int descriptor) {
  int result = 0;
  do {
    result = ::fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  return result;
}

void sync_path(const std::filesystem::path& path, int flags) {
  const int descriptor = open_again_if_interrupted(path, O_RDONLY | flags);
  if (descriptor < 0) throw_write_error(path, "can't be opened", errno);
  const int result = fsync_again_if_interrupted(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  if (result != 0) throw_write_error(path, "can't be brought to disk", error_number);
}

}  // namespace

void throw_write_error(const std::filesystem::path& path, std::string_view action, int error_number) {
  throw Error{Fault::running,
              {path.string()},
              fmt::format("{}: {}", action, std::strerror(error_number)),
              remedy_for(error_number)};
}

OutputFile::OutputFile(const std::filesystem::path& path, WriteMode mode) : path_(path) {
  const int how = mode == WriteMode::create ? O_TRUNC : O_APPEND;
  descriptor_ = open_again_if_interrupted(path, O_WRONLY | O_CREAT | how, 0666);
  if (descriptor_ < 0) throw_write_error(path, "can't be created", errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      bytes_written_(other.bytes_written_) {}

void OutputFile::write(std::span<const std::byte> bytes) {
  TUNE_CHECK(descriptor_ >= 0, "{} is closed", path_.string());
  constexpr std::size_t kLargestCall = std::size_t{1} << 30;  // Linux writes at most 2 GiB in one call
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kLargestCall));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw_write_error(path_, fmt::format("can't be written after {} bytes", bytes_written_), errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    bytes_written_ += static_cast<std::uint64_t>(written);
  }
}

void OutputFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void OutputFile::close() {
  TUNE_CHECK(descriptor_ >= 0, "{} is closed", path_.string());
  if (fsync_again_if_interrupted(descriptor_) != 0) throw_write_error(path_, "can't be brought to disk", errno);
  // after EINTR the descriptor is gone on Linux and the bytes are on disk already
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR)
    throw_write_error(path_, "can't be closed", errno);
}

std::string read_text(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > max_bytes)
    throw Error{Fault::data,
                {path.string()},
                fmt::format("is {} bytes long; at most {} are read", file.bytes().size(), max_bytes),
                "check that this is the file you meant"};
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void sync_directory(const std::filesystem::path& folder) { sync_path(folder, O_DIRECTORY); }

void sync_file(const std::filesystem::path& path) { sync_path(path, 0); }

std::uint64_t free_disk_bytes(const std::filesystem::path& path) {
  std::filesystem::path existing = std::filesystem::absolute(path);
  std::error_code ignored;
  while (!std::filesystem::exists(existing, ignored) && existing.has_relative_path()) existing = existing.parent_path();
  struct statvfs status {};
  if (::statvfs(existing.c_str(), &status) != 0) throw_write_error(existing, "free space can't be found out", errno);
  return std::uint64_t{status.f_bavail} * status.f_frsize;
}

void require_free_disk(const std::filesystem::path& path, std::uint64_t needed_bytes, std::string_view what) {
  const std::uint64_t free = free_disk_bytes(path);
  const auto mib = [](std::uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  if (free < needed_bytes)
    throw Error{Fault::running,
                {path.string()},
                fmt::format("{} needs {:.1f} MiB of disk, {:.1f} MiB are free", what, mib(needed_bytes), mib(free)),
                "free disk space or write to another disk, then start again: finished checkpoints are kept"};
}

void create_folders(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> parents;  // of what is new
  std::error_code error;
  for (auto path = std::filesystem::absolute(folder); !std::filesystem::exists(path, error); path = path.parent_path())
    parents.push_back(path.parent_path());
  std::filesystem::create_directories(folder, error);
  if (error) throw_write_error(folder, "can't be made", error.value());
  if (!std::filesystem::is_directory(folder, error)) throw_write_error(folder, "can't be made", ENOTDIR);
  for (const std::filesystem::path& parent : parents) sync_directory(parent);
}

void duplicate_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  const MappedFile source(from);  // copy_file of the standard library says "Input/output error" when the disk is full
  OutputFile copy(to);
  copy.write(source.bytes());
  copy.close();
}

}  // namespace tune

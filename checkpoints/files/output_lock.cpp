#include "checkpoints/files/output_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::string this_process() {
  std::array<char, HOST_NAME_MAX + 1> host{};
  ::gethostname(host.data(), host.size() - 1);
  return fmt::format("process {} on {}", ::getpid(), host.data());
}

std::string holder(int descriptor) {
  std::array<char, 512> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  const std::string_view seen(text.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  return seen.empty() ? "another process" : std::string(seen.substr(0, seen.find('\n')));
}

}  // namespace

OutputLock::OutputLock(const std::filesystem::path& output_dir) {
  create_folders(output_dir);
  const std::filesystem::path path = output_dir / ".lock";
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_write_error(path, "can't be created", errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error_number = errno;
    const std::string who = holder(descriptor_);
    ::close(descriptor_);
    if (error_number != EWOULDBLOCK) throw_write_error(path, "can't be locked", error_number);
    throw Error{Fault::recipe,
                {output_dir.string()},
                fmt::format("{} writes into this folder", who),
                "wait until it ends, stop it, or choose another output_dir"};
  }
  const std::string text = this_process() + "\n";
  if (::ftruncate(descriptor_, 0) != 0 || ::pwrite(descriptor_, text.data(), text.size(), 0) < 0) {
    const int error_number = errno;
    ::close(descriptor_);
    throw_write_error(path, "can't be written", error_number);
  }
}

OutputLock::~OutputLock() { ::close(descriptor_); }

}  // namespace tune

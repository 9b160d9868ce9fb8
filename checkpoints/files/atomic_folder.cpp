#include "checkpoints/files/atomic_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kTemporaryMark = ".tmp-";
constexpr std::string_view kTrashPrefix = ".trash-";

/// "out/" and "out" are the same folder, but only the second has a file name.
fs::path without_trailing_slash(const fs::path& path) {
  const fs::path normal = fs::absolute(path).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory())
      sync_directory(entry.path());
    else
      sync_file(entry.path());
  }
  sync_directory(folder);
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw_write_error(to, fmt::format("can't be renamed from {}", from.filename().string()), errno);
}

/// Puts `folder` in the place of `occupied`, which keeps its name at every instant where the file system can swap.
void replace(const fs::path& folder, const fs::path& occupied) {
  if (::renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, occupied.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) throw_write_error(occupied, "can't be replaced", errno);
  const fs::path aside =
      occupied.parent_path() / fmt::format("{}{}.{}", kTrashPrefix, occupied.filename().string(), ::getpid());
  rename_or_throw(occupied, aside);
  rename_or_throw(folder, occupied);
  rename_or_throw(aside, folder);
}

/// The process that the name ".….tmp-<pid>" speaks of; 0 = another kind of name.
pid_t owner_of(std::string_view name) {
  const auto mark = name.rfind(kTemporaryMark);
  if (!name.starts_with('.') || mark == std::string_view::npos) return 0;
  pid_t pid = 0;
  const char* end = name.data() + name.size();
  const auto parsed = std::from_chars(name.data() + mark + kTemporaryMark.size(), end, pid);
  return parsed.ec == std::errc{} && parsed.ptr == end && pid > 0 ? pid : 0;
}

bool is_leftover(const std::string& name) {
  if (name.starts_with(kTrashPrefix)) return true;
  const pid_t pid = owner_of(name);
  // Our own number is that of a process before us: in a container every program may have the same one.
  return pid > 0 && (pid == ::getpid() || (::kill(pid, 0) != 0 && errno == ESRCH));
}

}  // namespace

fs::path temporary_path(const fs::path& final_path) {
  const fs::path path = without_trailing_slash(final_path);
  return path.parent_path() / fmt::format(".{}{}{}", path.filename().string(), kTemporaryMark, ::getpid());
}

AtomicFolder::AtomicFolder(const fs::path& final_path)
    : final_path_(without_trailing_slash(final_path)), path_(temporary_path(final_path)) {
  create_folders(final_path_.parent_path());
  std::error_code error;
  fs::remove_all(path_, error);  // a dead process may have had our number
  if (::mkdir(path_.c_str(), 0777) != 0) throw_write_error(path_, "can't be made", errno);
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void AtomicFolder::commit() {
  TUNE_CHECK(!path_.empty(), "{} is committed already", final_path_.string());
  sync_tree(path_);
  std::error_code error;
  if (fs::exists(fs::symlink_status(final_path_, error))) {
    replace(path_, final_path_);
    fs::remove_all(path_, error);  // holds what was there before
  } else {
    rename_or_throw(path_, final_path_);
  }
  path_.clear();
  sync_directory(final_path_.parent_path());
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (is_leftover(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
}

void remove_atomically(const fs::path& path) {
  const fs::path trash =
      path.parent_path() / fmt::format("{}{}.{}", kTrashPrefix, path.filename().string(), ::getpid());
  std::error_code error;
  fs::remove_all(trash, error);
  rename_or_throw(path, trash);
  fs::remove_all(trash, error);
  if (error) throw_write_error(trash, "can't be removed", error.value());
}

}  // namespace tune

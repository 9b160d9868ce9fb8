#include "checkpoints/files/atomic_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "recipes/schema/error.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

// Hidden names: ".checkpoint-5.tmp-123" is filled by process 123, ".checkpoint-5.trash-123" is being removed by it,
// ".checkpoint-5.old-123" is what it is about to replace.
constexpr std::string_view kTemporary = ".tmp-", kTrash = ".trash-", kOld = ".old-";

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

fs::path hidden_path(const fs::path& path, std::string_view mark) {
  return path.parent_path() / fmt::format(".{}{}{}", path.filename().string(), mark, ::getpid());
}

/// Puts `folder` in the place of `occupied` and the other way round. Where the file system can swap, the name is there
/// at every instant; where it can't, a kill between the renames leaves the old one aside for remove_leftovers().
void exchange(const fs::path& folder, const fs::path& occupied) {
  if (::renameat2(AT_FDCWD, folder.c_str(), AT_FDCWD, occupied.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) throw_write_error(occupied, "can't be replaced", errno);
  const fs::path old = hidden_path(occupied, kOld);
  rename_or_throw(occupied, old);
  rename_or_throw(folder, occupied);
  rename_or_throw(old, folder);
}

struct HiddenName {
  std::string name;       // that it was made for
  std::string_view mark;  // one of the three
  pid_t owner = 0;
};

std::optional<HiddenName> parsed(std::string_view hidden) {
  for (const std::string_view mark : {kTemporary, kTrash, kOld}) {
    const auto at = hidden.rfind(mark);
    if (!hidden.starts_with('.') || at == std::string_view::npos || at < 2) continue;
    pid_t pid = 0;
    const char* end = hidden.data() + hidden.size();
    const auto number = std::from_chars(hidden.data() + at + mark.size(), end, pid);
    if (number.ec == std::errc{} && number.ptr == end && pid > 0)
      return HiddenName{std::string(hidden.substr(1, at - 1)), mark, pid};
  }
  return std::nullopt;
}

// Our own number is that of a process before us: in a container every program may have the same one.
bool is_dead(pid_t pid) { return pid == ::getpid() || (::kill(pid, 0) != 0 && errno == ESRCH); }

/// Of one name, or of all.
void remove_leftovers(const fs::path& folder, const std::optional<std::string>& name) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const auto hidden = parsed(entry.path().filename().string());
    if (!hidden || (name && hidden->name != *name) || !is_dead(hidden->owner)) continue;
    const fs::path path = folder / hidden->name;
    if (hidden->mark == kOld && !fs::exists(fs::symlink_status(path, ignored)))
      fs::rename(entry.path(), path, ignored);
    else
      fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace

fs::path temporary_path(const fs::path& final_path) {
  return hidden_path(without_trailing_slash(final_path), kTemporary);
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
    exchange(path_, final_path_);
    sync_directory(final_path_.parent_path());
    fs::remove_all(path_, error);  // holds what was there before
  } else {
    rename_or_throw(path_, final_path_);
    sync_directory(final_path_.parent_path());
  }
  path_.clear();
}

void remove_leftovers(const fs::path& folder) { remove_leftovers(folder, std::nullopt); }

void remove_leftovers_of(const fs::path& final_path) {
  const fs::path path = without_trailing_slash(final_path);
  remove_leftovers(path.parent_path(), path.filename().string());
}

void remove_atomically(const fs::path& path) {
  const fs::path trash = hidden_path(without_trailing_slash(path), kTrash);
  std::error_code error;
  fs::remove_all(trash, error);
  rename_or_throw(path, trash);
  fs::remove_all(trash, error);
  if (error) throw_write_error(trash, "can't be removed", error.value());
}

}  // namespace tune

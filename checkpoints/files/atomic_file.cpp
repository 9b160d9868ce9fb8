#include "checkpoints/files/atomic_file.h"

#include <cerrno>
#include <cstdio>

#include "checkpoints/files/atomic_folder.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

/// The hidden name for `final_path`, whose folder exists from here on.
std::filesystem::path prepared(const std::filesystem::path& final_path) {
  const std::filesystem::path hidden = temporary_path(final_path);
  create_folders(hidden.parent_path());
  return hidden;
}

}  // namespace

AtomicFile::AtomicFile(const std::filesystem::path& final_path)
    : final_path_(std::filesystem::absolute(final_path)), file_(prepared(final_path)) {}

AtomicFile::~AtomicFile() {
  if (!committed_) std::remove(file_.path().c_str());
}

void AtomicFile::commit() {
  TUNE_CHECK(!committed_, "{} is committed already", final_path_.string());
  file_.close();
  if (std::rename(file_.path().c_str(), final_path_.c_str()) != 0)
    throw_write_error(final_path_, "can't be put in place", errno);
  committed_ = true;
  sync_directory(final_path_.parent_path());
}

void write_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.file().write(text);
  file.commit();
}

}  // namespace tune

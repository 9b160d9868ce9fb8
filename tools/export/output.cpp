#include "tools/export/output.h"

#include <algorithm>
#include <vector>

#include "checkpoints/files/atomic_folder.h"
#include "checkpoints/files/file_system.h"
#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/parts.h"
#include "tools/export/modelfile.h"

namespace tune {

namespace fs = std::filesystem;

namespace {

fs::path without_links(const fs::path& path) {
  const fs::path canonical = fs::weakly_canonical(fs::absolute(path));
  return canonical.has_filename() ? canonical : canonical.parent_path();  // "x/" as "x"
}

}  // namespace

bool is_or_holds(const fs::path& folder, const fs::path& path) {
  const fs::path outer = without_links(folder), inner = without_links(path);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

fs::path set_aside(const fs::path& written) {
  const auto renamed = [](fs::path path) {
    const fs::path extension = path.extension() == ".gguf" ? ".gguf" : "";
    return path.replace_filename((extension.empty() ? path.filename() : path.stem()).string() + ".unverified" +
                                 extension.string());
  };
  const auto move = [](const fs::path& from, const fs::path& to) {
    if (fs::is_directory(to)) remove_atomically(to);
    std::error_code error;
    fs::rename(from, to, error);
    if (error) throw_write_error(to, "can't be written", error.value());
  };
  const fs::path name = written.has_filename() ? written : written.parent_path();  // "x/" as "x"
  if (fs::is_directory(name)) {
    move(name, renamed(name));
    return renamed(name);
  }
  const std::vector<fs::path> parts = GgufFile(name).files();
  const bool is_split = parts.size() > 1;
  const fs::path whole = is_split ? gguf_whole_path(name, 1, parts.size()) : name;
  const auto target = [&](std::size_t i) {
    return is_split ? gguf_part_path(renamed(whole), i + 1, parts.size()) : renamed(whole);
  };
  for (std::size_t i = 0; i < parts.size(); ++i) move(parts[i], target(i));
  if (fs::exists(modelfile_path(whole))) remove_atomically(modelfile_path(whole));
  return target(0);
}

}  // namespace tune

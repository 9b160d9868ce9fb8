#include "tools/export/output.h"

#include <algorithm>

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

}  // namespace tune

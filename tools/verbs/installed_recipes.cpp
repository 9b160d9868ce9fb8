#include "tools/verbs/installed_recipes.h"

#include <system_error>

namespace tune {

namespace fs = std::filesystem;

fs::path installed_recipes() {
  std::error_code unreadable;  // no /proc: as if not installed
  const fs::path program = fs::read_symlink("/proc/self/exe", unreadable);
  const fs::path beside = program.parent_path().parent_path() / "share" / "tune" / "recipes";
  return !program.empty() && fs::is_directory(beside, unreadable) ? beside : fs::path(TUNE_RECIPES_DIR);
}

}  // namespace tune

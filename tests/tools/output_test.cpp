#include "tools/export/output.h"

#include <gtest/gtest.h>

#include "tests/checkpoints/files_helpers.h"

namespace tune {
namespace {

namespace fs = std::filesystem;

TEST(Output, IsOrHoldsByWholeNames) {
  const TemporaryFolder folder;
  for (const char* name : {"model", "model/inner", "other"}) fs::create_directory(folder / name);
  fs::create_directory_symlink(folder / "model", folder / "link");
  for (const char* inside : {"model", "model/", "model/inner", "model/new", "link", "link/new", "other/../model"})
    EXPECT_TRUE(is_or_holds(folder / "model", folder / inside)) << inside;
  for (const char* outside : {"other", "other/", "model2", "new", "new/model", ".", "model/.."})
    EXPECT_FALSE(is_or_holds(folder / "model", folder / outside)) << outside;
  EXPECT_TRUE(is_or_holds(folder / "new", folder / "new/"));
  EXPECT_TRUE(is_or_holds(folder / "new/", folder / "new/x"));
  EXPECT_TRUE(is_or_holds("new", fs::current_path() / "new" / "x"));
  EXPECT_FALSE(is_or_holds(folder / "new", folder / "newer"));
  EXPECT_TRUE(is_or_holds("/", folder.path()));
}

}  // namespace
}  // namespace tune

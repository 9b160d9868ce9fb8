#include "checkpoints/training/starts.h"

#include <gtest/gtest.h>

#include "files_helpers.h"

namespace tune {
namespace {

TEST(Starts, ThreeInARowWithoutProgressAreEnough) {
  const TemporaryFolder folder;
  EXPECT_FALSE(goes_nowhere(folder.path(), 5, 5));
  EXPECT_FALSE(goes_nowhere(folder.path(), 5, 5));
  EXPECT_TRUE(goes_nowhere(folder.path(), 5, 5));
  EXPECT_TRUE(goes_nowhere(folder.path(), 5, 5));
}

TEST(Starts, ProgressBeginsAnew) {
  const TemporaryFolder folder;
  EXPECT_FALSE(goes_nowhere(folder.path(), 5, 5));
  EXPECT_FALSE(goes_nowhere(folder.path(), 5, 5));
  EXPECT_FALSE(goes_nowhere(folder.path(), 5, 6));
  EXPECT_FALSE(goes_nowhere(folder.path(), 6, 6));
  EXPECT_FALSE(goes_nowhere(folder.path(), 6, 6));
  EXPECT_TRUE(goes_nowhere(folder.path(), 6, 6));
}

TEST(Starts, AreForgotten) {
  const TemporaryFolder folder;
  for (int i = 0; i < 3; ++i) goes_nowhere(folder.path(), 0, 0);
  forget_starts(folder.path());
  EXPECT_FALSE(goes_nowhere(folder.path(), 0, 0));
}

}  // namespace
}  // namespace tune

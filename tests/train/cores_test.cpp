#include "train/parallel/cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Cores, ListsAreReadAsLinuxWritesThem) {
  EXPECT_THAT(parse_cores("0-3,8"), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(parse_cores("5"), ElementsAre(5));
  EXPECT_THAT(parse_cores("0-1,64-65"), ElementsAre(0, 1, 64, 65));
  for (const char* none : {"", "x", "3-1", "1,,2", "1-", "-1", "0-3 8"})
    EXPECT_THAT(parse_cores(none), IsEmpty()) << none;
}

TEST(Cores, PartsAreConsecutiveAndTakeAll) {
  const std::vector<int> cores = {0, 1, 2, 3, 8, 9, 10};
  EXPECT_THAT(part_of_cores(cores, 0, 3), ElementsAre(0, 1));
  EXPECT_THAT(part_of_cores(cores, 1, 3), ElementsAre(2, 3));
  EXPECT_THAT(part_of_cores(cores, 2, 3), ElementsAre(8, 9, 10));
  EXPECT_THAT(part_of_cores(cores, 0, 1), ElementsAre(0, 1, 2, 3, 8, 9, 10));
  EXPECT_THAT(part_of_cores({4, 5}, 2, 3), ElementsAre(4, 5));  // too few: nobody is bound
}

}  // namespace
}  // namespace tune

#include "train/parallel/rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "recipes/schema/error.h"

namespace tune {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class RankTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kNames) ::unsetenv(name);
  }
  void TearDown() override { SetUp(); }

  static Rank rank_of(const std::map<std::string, std::string>& variables) {
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    return rank_from_environment();
  }

 private:
  static constexpr const char* kNames[] = {"RANK",
                                           "WORLD_SIZE",
                                           "LOCAL_RANK",
                                           "LOCAL_WORLD_SIZE",
                                           "MASTER_ADDR",
                                           "MASTER_PORT",
                                           "SLURM_PROCID",
                                           "SLURM_LOCALID",
                                           "SLURM_NODEID",
                                           "SLURM_JOB_ID",
                                           "SLURM_STEP_ID",
                                           "SLURM_STEP_NUM_TASKS",
                                           "SLURM_STEP_NODELIST",
                                           "SLURM_JOB_NODELIST",
                                           "SLURM_STEP_TASKS_PER_NODE"};
};

TEST_F(RankTest, NobodySaysSoIsOneProcess) {
  const Rank rank = rank_of({});
  EXPECT_EQ(rank.count, 1);
  EXPECT_EQ(rank.source, "");
  EXPECT_TRUE(rank.writes());
}

TEST_F(RankTest, ReadsTorchrunsVariables) {
  const Rank rank = rank_of({{"RANK", "5"},
                             {"WORLD_SIZE", "8"},
                             {"LOCAL_RANK", "1"},
                             {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "node0"},
                             {"MASTER_PORT", "1234"}});
  EXPECT_EQ(rank.number, 5);
  EXPECT_EQ(rank.count, 8);
  EXPECT_EQ(rank.local_number, 1);
  EXPECT_EQ(rank.local_count, 4);
  EXPECT_EQ(rank.master_address, "node0");
  EXPECT_EQ(rank.master_port, 1234);
  EXPECT_FALSE(rank.writes());
}

TEST_F(RankTest, ReadsSlurmsVariables) {
  const std::map<std::string, std::string> step = {{"SLURM_PROCID", "3"},    {"SLURM_STEP_NUM_TASKS", "5"},
                                                   {"SLURM_LOCALID", "1"},   {"SLURM_NODEID", "1"},
                                                   {"SLURM_JOB_ID", "4711"}, {"SLURM_STEP_NODELIST", "gpu[07-09]"},
                                                   {"SLURM_STEP_ID", "0"},   {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"}};
  const Rank rank = rank_of(step);
  EXPECT_EQ(rank.number, 3);
  EXPECT_EQ(rank.count, 5);
  EXPECT_EQ(rank.local_number, 1);
  EXPECT_EQ(rank.local_count, 2);
  EXPECT_EQ(rank.master_address, "gpu07");
  EXPECT_GE(rank.master_port, 1024);
  EXPECT_EQ(rank_of({{"SLURM_PROCID", "0"}}).master_port, rank.master_port) << "the ranks of a step meet at one port";
  EXPECT_NE(rank_of({{"SLURM_STEP_ID", "1"}}).master_port, rank.master_port) << "steps don't";
  EXPECT_EQ(rank_of({{"SLURM_NODEID", "2"}, {"SLURM_LOCALID", "0"}}).local_count, 1);
}

TEST_F(RankTest, ABatchScriptIsNoTaskOfAStep) {
  EXPECT_EQ(rank_of({{"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "1"}}).count, 1);
}

TEST_F(RankTest, RefusesWhatMakesNoSense) {
  EXPECT_THAT([] { rank_of({{"RANK", "2"}}); }, ThrowsMessage<Error>(HasSubstr("WORLD_SIZE is not")));
  EXPECT_THAT([] { rank_of({{"WORLD_SIZE", "2"}}); }, ThrowsMessage<Error>(HasSubstr("rank 2 of 2")));
  EXPECT_THAT([] { rank_of({{"RANK", "1x"}}); }, ThrowsMessage<Error>(HasSubstr("RANK is \"1x\", not a number")));
  EXPECT_THAT([] { rank_of({{"RANK", "1"}, {"MASTER_PORT", "70000"}}); }, ThrowsMessage<Error>(HasSubstr("port")));
}

TEST(FirstHost, OfSlurmsLists) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,login"), "node1");
  EXPECT_EQ(first_host("node[1-3,7],login"), "node1");
  EXPECT_EQ(first_host("n[01-16]-ib"), "n01-ib");
  EXPECT_EQ(first_host("n[5,9]-ib,m[1-2]"), "n5-ib");
}

}  // namespace
}  // namespace tune

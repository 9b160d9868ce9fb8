#include "data/loader.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "data/dealing.h"
#include "data_fakes.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

DataOptions data_options(bool packing = true, std::int64_t max_length = 32) {
  return {.max_length = max_length, .packing = packing, .datasets = {{.path = "rows.jsonl"}}};
}

TrainOptions train_options(std::int64_t micro_batch, std::int64_t accumulation, double epochs = 1.0) {
  return {.num_train_epochs = epochs,
          .global_batch_size = micro_batch * accumulation,
          .per_device_train_batch_size = micro_batch,
          .gradient_accumulation_steps = accumulation};
}

// Rows of 3 ... 12 tokens, each of its own id.
MemoryRows some_rows(std::int64_t count) {
  MemoryRows rows;
  for (std::int64_t i = 0; i < count; ++i) rows.add_row(static_cast<std::size_t>(3 + i * 7 % 10));
  return rows;
}

std::vector<std::int32_t> ids_of_step(const Loader& loader, std::int64_t step) {
  std::vector<std::int32_t> ids;
  for (const PackedBatch& batch : loader.step(step).micro_batches)
    ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
  return ids;
}

// How often each row occurs in steps [begin, end).
std::map<std::int32_t, int> rows_in(const Loader& loader, std::int64_t begin, std::int64_t end) {
  std::map<std::int32_t, int> rows;
  for (std::int64_t step = begin; step < end; ++step) {
    for (const PackedBatch& batch : loader.step(step).micro_batches) {
      for (std::size_t i = 0; i + 1 < batch.document_starts.size(); ++i) ++rows[batch.ids[batch.document_starts[i]]];
    }
  }
  return rows;
}

TEST(Loader, DealsEveryRowOnceAnEpoch) {
  const MemoryRows rows = some_rows(101);
  for (const bool packing : {false, true}) {
    const Loader loader(rows, data_options(packing), train_options(2, 3, 1.0));
    const auto dealt = rows_in(loader, 0, loader.total_steps());
    EXPECT_EQ(dealt.size(), 101U);
    for (const auto& [row, times] : dealt) EXPECT_EQ(times, 1) << row;
  }
}

TEST(Loader, RanksShareEachStepAndItsWork) {
  for (const bool packing : {false, true}) {
    const MemoryRows rows = some_rows(101);
    const Loader whole(rows, data_options(packing), train_options(1, 8)),
        dealt(rows, data_options(packing), train_options(1, 8), 3);
    ASSERT_EQ(whole.total_steps(), dealt.total_steps());
    for (std::int64_t step = 0; step < whole.total_steps(); ++step) {
      const StepShare all = whole.step(step);
      std::multiset<std::vector<std::int32_t>> expected, found;
      for (const PackedBatch& batch : all.micro_batches) expected.insert(batch.ids);
      std::vector<std::size_t> pieces;
      for (std::int64_t rank = 0; rank < 3; ++rank) {
        const StepShare share = dealt.step(step, rank);
        EXPECT_EQ(share.tokens, all.tokens);
        EXPECT_EQ(share.trained_tokens, all.trained_tokens);
        pieces.push_back(share.micro_batches.size());
        for (const PackedBatch& batch : share.micro_batches) found.insert(batch.ids);
      }
      EXPECT_EQ(found, expected) << "step " << step;
      EXPECT_LE(*std::max_element(pieces.begin(), pieces.end()) - *std::min_element(pieces.begin(), pieces.end()), 1U);
    }
  }
}

TEST(Loader, CountsTheTrainedTokensOfAStep) {
  const MemoryRows rows = some_rows(20);
  const StepShare share = Loader(rows, data_options(), train_options(2, 2)).step(0);
  std::int64_t tokens = 0, trained = 0;
  for (const PackedBatch& batch : share.micro_batches) {
    tokens += batch.tokens();
    trained += batch.trained_tokens();
  }
  EXPECT_EQ(share.tokens, tokens);
  EXPECT_EQ(share.trained_tokens, trained);
}

TEST(Loader, RefusesMoreRanksThanAStepHasRows) {
  const MemoryRows rows = some_rows(20);
  EXPECT_THAT([&] { Loader(rows, data_options(), train_options(1, 2), 3); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("a step has 2 rows (train.global_batch_size), but there "
                                                               "are 3 ranks")));
}

TEST(Dealing, GivesTheDearestToWhoeverHasTheLeastWork) {
  const std::vector<double> costs = {1, 9, 1, 5, 4, 1};
  const auto shares = deal(costs, 2);
  EXPECT_EQ(shares[0], (std::vector<std::int64_t>{0, 1, 5}));  // 9 + 1 + 1
  EXPECT_EQ(shares[1], (std::vector<std::int64_t>{2, 3, 4}));  // 5 + 4 + 1
}

TEST(Dealing, LeavesThoseWithoutWorkEmpty) {
  const auto shares = deal(std::vector<double>{3.0}, 3);
  EXPECT_EQ(shares[0].size() + shares[1].size() + shares[2].size(), 1U);
}

TEST(Loader, IsAFunctionOfTheStep) {
  const MemoryRows rows = some_rows(101);
  const Loader forward(rows, data_options(), train_options(2, 2, 3.0)),
      jumping(rows, data_options(), train_options(2, 2, 3.0));
  std::vector<std::vector<std::int32_t>> steps;
  for (std::int64_t step = 0; step < forward.total_steps(); ++step) steps.push_back(ids_of_step(forward, step));
  for (std::int64_t step = forward.total_steps(); step-- > 0;)
    EXPECT_EQ(ids_of_step(jumping, step), steps[step]) << step;
}

TEST(Loader, ShufflesEachEpochAnew) {
  const MemoryRows rows = some_rows(50);
  const Loader loader(rows, data_options(false), train_options(50, 1, 2.0));
  ASSERT_EQ(loader.total_steps(), 2);
  EXPECT_NE(ids_of_step(loader, 0), ids_of_step(loader, 1));
}

TEST(Loader, GivesTheSameRowsHoweverABatchIsSplit) {
  const MemoryRows rows = some_rows(101);
  const Loader one(rows, data_options(), train_options(1, 8)), eight(rows, data_options(), train_options(8, 1));
  ASSERT_EQ(one.total_steps(), eight.total_steps());
  for (std::int64_t step = 0; step < one.total_steps(); ++step) {
    EXPECT_EQ(ids_of_step(one, step), ids_of_step(eight, step));
    EXPECT_EQ(eight.step(step).micro_batches.size(), 1U);
  }
  EXPECT_EQ(one.step(0).micro_batches.size(), 8U);
}

TEST(Loader, GivesOneRowASlotWithoutPacking) {
  const MemoryRows rows = some_rows(10);
  const Loader loader(rows, data_options(false), train_options(2, 2));
  EXPECT_EQ(loader.total_steps(), 3);  // 10 rows, 4 a step
  EXPECT_EQ(loader.step(0).micro_batches.at(0).document_starts.size(), 3U);
  EXPECT_EQ(loader.step(2).micro_batches.size(), 1U);  // what is left is one micro-batch
}

TEST(Loader, FillsSlotsUpToMaxLength) {
  const MemoryRows rows = some_rows(101);
  const Loader loader(rows, data_options(true, 32), train_options(1, 1));
  std::int64_t tokens = 0, most = 0;
  for (std::int64_t step = 0; step < loader.total_steps(); ++step) {
    EXPECT_LE(loader.step(step).micro_batches.at(0).tokens(), 32);
    tokens += loader.step(step).micro_batches.at(0).tokens();
    most = std::max(most, loader.step(step).micro_batches.at(0).tokens());
  }
  EXPECT_EQ(tokens, loader.tokens_per_epoch());
  EXPECT_EQ(most, loader.max_micro_batch_tokens());
  EXPECT_LE(loader.total_steps(), tokens / 32 * 5 / 4 + 1);  // first-fit wastes little
}

TEST(Loader, CountsFractionsOfEpochs) {
  const MemoryRows rows = some_rows(10);
  const auto steps = [&](double epochs) {
    return Loader(rows, data_options(false), train_options(1, 1, epochs)).total_steps();
  };
  EXPECT_EQ(steps(1.0), 10);
  EXPECT_EQ(steps(0.25), 3);
  EXPECT_EQ(steps(2.5), 25);
  EXPECT_EQ(steps(0.01), 1);
  EXPECT_EQ(steps(1.1), 11);  // 1.1 - 1 is more than 0.1
  const Loader loader(rows, data_options(false), train_options(1, 1, 2.5));
  EXPECT_DOUBLE_EQ(loader.epoch_at(0), 0.0);
  EXPECT_DOUBLE_EQ(loader.epoch_at(15), 1.5);
  EXPECT_DOUBLE_EQ(loader.epoch_at(25), 2.5);
}

TEST(Loader, LetsMaxStepsWin) {
  const MemoryRows rows = some_rows(10);
  TrainOptions train = train_options(1, 1, 1.0);
  train.max_steps = 23;
  const Loader loader(rows, data_options(false), train);
  EXPECT_EQ(loader.total_steps(), 23);
  EXPECT_EQ(loader.steps_per_epoch(), 10);
  EXPECT_EQ(rows_in(loader, 10, 20).size(), 10U);
  EXPECT_DOUBLE_EQ(loader.epoch_at(23), 2.3);
}

TEST(Loader, MixesByWeight) {
  MemoryRows rows;
  for (int i = 0; i < 10; ++i) rows.add_row(4, i < 6 ? 0 : 1);
  DataOptions data = data_options(false);
  data.datasets = {{.path = "a", .weight = 0.5}, {.path = "b", .weight = 2.0}};
  const Loader loader(rows, data, train_options(1, 1));
  const auto dealt = rows_in(loader, 0, loader.total_steps());
  EXPECT_EQ(loader.total_steps(), 3 + 8);
  for (int i = 6; i < 10; ++i) EXPECT_EQ(dealt.at(i), 2);
}

TEST(Loader, PassesOverEpochsThatAreEmpty) {
  const MemoryRows rows = some_rows(1);
  DataOptions data = data_options();
  data.datasets[0].weight = 0.5;
  TrainOptions train = train_options(1, 1);
  train.max_steps = 3;
  const Loader loader(rows, data, train);
  for (std::int64_t step = 0; step < 3; ++step) EXPECT_EQ(loader.step(step).micro_batches.size(), 1U);
  EXPECT_DOUBLE_EQ(loader.epoch_at(2), 4.0);
}

TEST(Loader, RefusesToTrainOnNothing) {
  EXPECT_THAT(error_of([] { Loader(MemoryRows(), data_options(), train_options(1, 1)); }),
              HasSubstr("there is no row to train on"));
}

TEST(Loader, PacksAHundredThousandRowsAtOnce) {
  const MemoryRows rows = some_rows(100000);
  const Loader loader(rows, data_options(true, 2048), train_options(8, 1));
  EXPECT_GT(loader.total_steps(), 0);
}

TEST(EvaluationBatches, KeepOrderAndSourcesApart) {
  MemoryRows rows;
  for (const auto& [length, source] : {std::pair{4, 0}, {4, 0}, {4, 0}, {20, 0}, {4, 1}, {4, 1}})
    rows.add_row(static_cast<std::size_t>(length), source);
  EvaluationBatches batches(rows, 2, 16);
  std::vector<std::pair<std::int64_t, std::vector<std::int32_t>>> seen;
  while (const auto batch = batches.next()) seen.emplace_back(batch->source, batch->rows.document_starts);
  EXPECT_THAT(seen, ElementsAre(std::pair(0, std::vector{0, 4, 8}), std::pair(0, std::vector{0, 4}),
                                std::pair(0, std::vector{0, 20}), std::pair(1, std::vector{0, 4, 8})));
  EXPECT_EQ(largest_evaluation_batch(rows, 2, 16), 20);
}

TEST(EvaluationBatches, LargestIsBoundedByRowsAndTokens) {
  MemoryRows rows;
  for (int i = 0; i < 7; ++i) rows.add_row(5, 0);
  EXPECT_EQ(largest_evaluation_batch(rows, 3, 100), 15);
  EXPECT_EQ(largest_evaluation_batch(rows, 3, 12), 10);
  EXPECT_EQ(largest_evaluation_batch(MemoryRows{}, 3, 12), 0);
}

}  // namespace
}  // namespace tune

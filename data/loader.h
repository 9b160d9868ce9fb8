#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/batch.h"
#include "data/mixing.h"
#include "data/packing.h"
#include "data/row.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// All rows of a recipe's data sets, tokenised, behind a memory-mapped cache. Immutable; thread-safe.
class TokenDataset {
 public:
  virtual ~TokenDataset() = default;
  virtual std::int64_t size() const = 0;  // rows
  virtual RowView row(std::int64_t index) const = 0;
  virtual Place place(std::int64_t index) const = 0;
  virtual std::int64_t source(std::int64_t index) const = 0;  // index into DataOptions::datasets
  virtual std::int64_t length(std::int64_t index) const { return static_cast<std::int64_t>(row(index).ids.size()); }

  /// Tokens that a pass with gradients sees: of a single answer's row, not those of the other answer.
  std::int64_t taped_length(std::int64_t index) const;
  /// And those that attention sees in it: of a pair, the prompt's twice.
  std::int64_t attended_length(std::int64_t index) const;
};

/// One rank's part of an optimizer step, and what the step is in all.
struct StepShare {
  std::vector<PackedBatch> micro_batches;  // none where the last step of an epoch has fewer slots than ranks
  std::int64_t rounds = 0;                 // micro-batches of the rank that has most
  std::int64_t tokens = 0;                 // of all ranks
  std::int64_t trained_tokens = 0;         // of all ranks
  std::int64_t pairs = 0;                  // of all ranks, or single answers; stage dpo only
};

/// Deals the rows out. What an optimizer step sees is a pure function of (data set, options, seed, step): the position
/// in the data is the step number, so there is no other state to save. For one thread.
///
/// A slot is up to max_length tokens of packed rows, or one row without packing; a micro-batch is
/// per_device_train_batch_size slots end to end; a step is global_batch_size slots of one epoch, however many ranks
/// share them: each is dealt a part of nearly equal work (data/dealing.h).
class Loader {
 public:
  /// The data set must outlive the loader. Error{Fault::data} when there is no row, Error{Fault::recipe} when a step
  /// has fewer slots than there are ranks.
  Loader(const TokenDataset& dataset, const DataOptions& data, const TrainOptions& train, std::int64_t ranks = 1);

  /// Optimizer steps of the whole run (max_steps, or all epochs, the last step of an epoch may be short).
  std::int64_t total_steps() const;
  std::int64_t steps_per_epoch() const;  // of the first epoch
  std::int64_t tokens_per_epoch() const;
  double epoch_at(std::int64_t step) const;  // 1.5 = in the middle of the second epoch

  std::int64_t ranks() const { return ranks_; }

  /// What is dealt to `rank` in optimizer step `step` (from 0).
  StepShare step(std::int64_t step, std::int64_t rank = 0) const;

  /// Tokens of the largest micro-batch of any rank: what memory has to be planned for. Of single answers, for passes
  /// without gradients.
  std::int64_t max_micro_batch_tokens() const { return max_micro_batch_tokens_; }
  std::int64_t max_taped_tokens() const { return max_taped_tokens_; }        // the same of taped_length()
  std::int64_t max_attended_tokens() const { return max_attended_tokens_; }  // and of attended_length(); 0: no pairs

 private:
  struct Epoch {
    std::int64_t number = 0;
    std::int64_t first_step = 0;
    std::int64_t steps = 0;
    std::int64_t tokens = 0;
  };
  std::vector<Slot> slots_of(std::int64_t epoch) const;
  const Epoch& epoch_of(std::int64_t step) const;
  void add_epoch(const std::vector<Slot>& slots);
  std::span<const Slot> slots_of_step(std::span<const Slot> slots, std::int64_t step) const;
  std::vector<std::vector<std::int64_t>> shares(std::span<const Slot> slots) const;

  const TokenDataset& dataset_;
  const DataOptions data_;
  const TrainOptions train_;
  const std::int64_t ranks_;
  const bool pairs_;  // the rows are pairs
  std::vector<MixedSource> sources_;
  std::vector<Epoch> epochs_;
  std::int64_t total_steps_ = 0;
  std::int64_t max_micro_batch_tokens_ = 0, max_taped_tokens_ = 0, max_attended_tokens_ = 0;

  // The slots of the epoch that was asked for last: made again from nothing but its number when another one is wanted.
  mutable std::int64_t current_epoch_ = -1;
  mutable std::vector<Slot> current_slots_;
};

/// Rows of one source only.
struct SourcedBatch {
  std::int64_t source = 0;  // as TokenDataset::source
  PackedBatch rows;
};

/// The whole data set in its own order, for evaluation, a batch at a time: at most rows_per_batch documents and, as far
/// as rows are not longer, max_tokens_per_batch tokens (packing has no say here). The data set must outlive it.
class EvaluationBatches {
 public:
  EvaluationBatches(const TokenDataset& dataset, std::int64_t rows_per_batch, std::int64_t max_tokens_per_batch)
      : dataset_(dataset), rows_per_batch_(rows_per_batch), max_tokens_per_batch_(max_tokens_per_batch) {}

  std::optional<SourcedBatch> next();  // nothing at the end

 private:
  const TokenDataset& dataset_;
  const std::int64_t rows_per_batch_, max_tokens_per_batch_;
  std::int64_t row_ = 0;
};

/// Tokens of the largest of them.
std::int64_t largest_evaluation_batch(const TokenDataset& dataset, std::int64_t rows_per_batch,
                                      std::int64_t max_tokens_per_batch);

}  // namespace tune

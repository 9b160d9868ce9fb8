#include "data/loader.h"

#include <algorithm>
#include <cmath>

#include "data/dealing.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Rounded up, but 1.1 epochs of 30 steps are 33 steps although 1.1 - 1 is a little more than a tenth.
std::int64_t steps_in(double share, std::int64_t steps) {
  constexpr double kRounding = 1e-9;
  const auto whole = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(steps) - kRounding));
  return std::max<std::int64_t>(whole, std::min<std::int64_t>(steps, 1));
}

std::vector<MixedSource> mixed_sources(const TokenDataset& dataset, const std::vector<DatasetOptions>& options) {
  std::vector<MixedSource> sources;
  for (const DatasetOptions& source : options) sources.push_back({{}, source.weight});
  for (std::int64_t row = 0; row < dataset.size(); ++row) {
    const auto source = static_cast<std::size_t>(dataset.source(row));
    TUNE_CHECK(source < sources.size(), "row {} is of source {} of {}", row, source, sources.size());
    sources[source].rows.push_back(row);
  }
  return sources;
}

}  // namespace

std::int64_t TokenDataset::taped_length(std::int64_t index) const {
  const RowView view = row(index);
  return view.is_single() ? static_cast<std::int64_t>(answer_starts(view).second) : length(index);
}

std::int64_t TokenDataset::attended_length(std::int64_t index) const {
  const RowView view = row(index);
  if (!view.is_pair() || view.is_single()) return taped_length(index);
  return length(index) + static_cast<std::int64_t>(answer_starts(view).first);
}

Loader::Loader(const TokenDataset& dataset, const DataOptions& data, const TrainOptions& train, std::int64_t ranks)
    : dataset_(dataset),
      data_(data),
      train_(train),
      ranks_(ranks),
      pairs_(dataset.size() > 0 && dataset.row(0).is_pair()),
      sources_(mixed_sources(dataset, data.datasets)) {
  TUNE_CHECK(train.per_device_train_batch_size > 0 && train.global_batch_size > 0, "batch sizes not derived");
  if (train.global_batch_size < ranks)
    throw Error{Fault::recipe,
                {},
                fmt::format("a step has {} rows (train.global_batch_size), but there are {} ranks",
                            train.global_batch_size, ranks),
                "start fewer ranks, or raise train.global_batch_size"};
  const double epochs = train_.num_train_epochs;
  const auto wanted = [&] {
    const auto whole = static_cast<double>(epochs_.size());
    const std::int64_t steps = epochs_.empty() ? 0 : epochs_.back().first_step + epochs_.back().steps;
    return train_.max_steps > 0 ? steps < train_.max_steps : whole < epochs;
  };
  do add_epoch(slots_of(static_cast<std::int64_t>(epochs_.size())));
  while (wanted());

  const Epoch& last = epochs_.back();
  const double share_of_last = std::min(1.0, epochs - static_cast<double>(last.number));
  total_steps_ = train_.max_steps > 0 ? train_.max_steps : last.first_step + steps_in(share_of_last, last.steps);
}

std::vector<Slot> Loader::slots_of(std::int64_t epoch) const {
  const std::vector<std::int64_t> rows = rows_of_epoch(sources_, static_cast<std::uint64_t>(train_.seed), epoch);
  std::vector<Slot> slots;
  if (!data_.packing) {
    for (const std::int64_t row : rows) slots.push_back({row});
    return slots;
  }
  std::vector<std::int64_t> lengths;
  lengths.reserve(rows.size());
  for (const std::int64_t row : rows) lengths.push_back(dataset_.length(row));
  slots = first_fit(lengths, data_.max_length);
  for (Slot& slot : slots) {
    for (std::int64_t& index : slot) index = rows[static_cast<std::size_t>(index)];
  }
  return slots;
}

void Loader::add_epoch(const std::vector<Slot>& slots) {
  if (slots.empty() && epochs_.empty())  // a later one may be: half of a row is taken every second time
    throw Error{Fault::data, Place{}, "there is no row to train on", "check data.datasets and their weights"};
  Epoch epoch;
  epoch.number = static_cast<std::int64_t>(epochs_.size());
  if (!epochs_.empty()) epoch.first_step = epochs_.back().first_step + epochs_.back().steps;
  epoch.steps = ceil_div(static_cast<std::int64_t>(slots.size()), train_.global_batch_size);
  for (std::int64_t step = 0; step < epoch.steps; ++step) {
    const std::span<const Slot> dealt = slots_of_step(slots, step);
    for (const auto& share : shares(dealt)) {
      std::int64_t micro_batch_tokens = 0, taped = 0, attended = 0;
      for (std::size_t i = 0; i < share.size(); ++i) {
        if (i % static_cast<std::size_t>(train_.per_device_train_batch_size) == 0)
          micro_batch_tokens = taped = attended = 0;
        std::int64_t tokens = 0;
        for (const std::int64_t row : dealt[static_cast<std::size_t>(share[i])]) {
          tokens += dataset_.length(row);
          taped += pairs_ ? dataset_.taped_length(row) : dataset_.length(row);
          if (pairs_) attended += dataset_.attended_length(row);
        }
        epoch.tokens += tokens;
        micro_batch_tokens += tokens;
        max_micro_batch_tokens_ = std::max(max_micro_batch_tokens_, micro_batch_tokens);
        max_taped_tokens_ = std::max(max_taped_tokens_, taped);
        max_attended_tokens_ = std::max(max_attended_tokens_, attended);
      }
    }
  }
  epochs_.push_back(epoch);
}

std::int64_t Loader::total_steps() const { return total_steps_; }
std::int64_t Loader::steps_per_epoch() const { return epochs_.front().steps; }
std::int64_t Loader::tokens_per_epoch() const { return epochs_.front().tokens; }

const Loader::Epoch& Loader::epoch_of(std::int64_t step) const {
  TUNE_CHECK(step >= 0 && step <= total_steps_, "step {} of {}", step, total_steps_);
  const auto behind = std::upper_bound(epochs_.begin(), epochs_.end(), step,
                                       [](std::int64_t s, const Epoch& epoch) { return s < epoch.first_step; });
  return *(behind - 1);
}

double Loader::epoch_at(std::int64_t step) const {
  const Epoch& epoch = epoch_of(step);
  return static_cast<double>(epoch.number) +
         static_cast<double>(step - epoch.first_step) / static_cast<double>(std::max<std::int64_t>(epoch.steps, 1));
}

// Of the step-th step of the epoch that has these slots.
std::span<const Slot> Loader::slots_of_step(std::span<const Slot> slots, std::int64_t step) const {
  const auto size = static_cast<std::size_t>(train_.global_batch_size), begin = static_cast<std::size_t>(step) * size;
  return slots.subspan(begin, std::min(size, slots.size() - begin));
}

// Indices into `slots`, those of one step, by rank.
std::vector<std::vector<std::int64_t>> Loader::shares(std::span<const Slot> slots) const {
  std::vector<double> costs;
  costs.reserve(slots.size());
  for (const Slot& slot : slots) {
    costs.push_back(0);
    for (const std::int64_t row : slot) costs.back() += cost_of_row(dataset_.length(row));
  }
  return deal(costs, ranks_);
}

StepShare Loader::step(std::int64_t step, std::int64_t rank) const {
  TUNE_CHECK(step < total_steps_, "step {} of {}", step, total_steps_);
  TUNE_CHECK(rank >= 0 && rank < ranks_, "rank {} of {}", rank, ranks_);
  const Epoch& epoch = epoch_of(step);
  if (epoch.number != current_epoch_) {
    current_slots_ = slots_of(epoch.number);
    current_epoch_ = epoch.number;
  }
  const std::span<const Slot> slots = slots_of_step(current_slots_, step - epoch.first_step);
  StepShare share;
  const std::vector<std::vector<std::int64_t>> dealt = shares(slots);
  for (const auto& each : dealt)
    share.rounds =
        std::max(share.rounds, ceil_div(static_cast<std::int64_t>(each.size()), train_.per_device_train_batch_size));
  const std::vector<std::int64_t>& mine = dealt[static_cast<std::size_t>(rank)];
  for (std::size_t i = 0; i < mine.size(); ++i) {
    if (i % static_cast<std::size_t>(train_.per_device_train_batch_size) == 0) share.micro_batches.emplace_back();
    for (const std::int64_t row : slots[static_cast<std::size_t>(mine[i])])
      append_document(share.micro_batches.back(), dataset_.row(row), row);
  }
  for (const Slot& slot : slots) {
    for (const std::int64_t row : slot) {
      const RowView view = dataset_.row(row);
      share.tokens += static_cast<std::int64_t>(view.ids.size());
      share.trained_tokens += trained_tokens(view);
      share.pairs += view.is_pair() ? 1 : 0;
    }
  }
  return share;
}

namespace {

// Behind the last row of the evaluation batch that begins with row `first`.
std::int64_t end_of_batch(const TokenDataset& dataset, std::int64_t first, std::int64_t rows, std::int64_t tokens) {
  std::int64_t end = first + 1, used = dataset.length(first);
  while (end < dataset.size() && dataset.source(end) == dataset.source(first) && end - first < rows &&
         used + dataset.length(end) <= tokens)
    used += dataset.length(end++);
  return end;
}

}  // namespace

std::optional<SourcedBatch> EvaluationBatches::next() {
  if (row_ == dataset_.size()) return std::nullopt;
  SourcedBatch batch{dataset_.source(row_), {}};
  const std::int64_t end = end_of_batch(dataset_, row_, rows_per_batch_, max_tokens_per_batch_);
  for (; row_ < end; ++row_) append_document(batch.rows, dataset_.row(row_), row_);
  return batch;
}

std::int64_t largest_evaluation_batch(const TokenDataset& dataset, std::int64_t rows_per_batch,
                                      std::int64_t max_tokens_per_batch) {
  std::int64_t largest = 0;
  for (std::int64_t first = 0; first < dataset.size();) {
    std::int64_t tokens = 0;
    const std::int64_t end = end_of_batch(dataset, first, rows_per_batch, max_tokens_per_batch);
    while (first < end) tokens += dataset.length(first++);
    largest = std::max(largest, tokens);
  }
  return largest;
}

}  // namespace tune

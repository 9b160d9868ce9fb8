#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "checkpoints/peft/adapter_config.h"
#include "checkpoints/training/background_save.h"
#include "checkpoints/training/restore.h"
#include "recipes/schema/recipe.h"
#include "train/model/decoder.h"
#include "train/optim/optimizer.h"
#include "train/parallel/world.h"
#include "train/stop.h"

namespace tune {

/// Which checkpoint to go on from. automatic: the newest whole one in output_dir, or the start.
struct ResumeOption {
  enum class Mode { automatic, never, folder } mode = Mode::automatic;
  std::filesystem::path folder;  // a checkpoint-<step>
};

/// The checkpoint of the run in output_dir to go on from, if any. Every rank calls it; rank 0 chooses, so that all go
/// on from the same one.
std::optional<LoadedCheckpoint> find_checkpoint(const std::filesystem::path& output_dir, const ResumeOption& resume,
                                                World& world);

/// The checkpoints of one run, and the adapter that it leaves. Weights that are the same on every rank are written by
/// rank 0, slices by the ranks of the first copy, each its part. Every rank calls save(); world, decoder and optimizer
/// must outlive it.
class RunCheckpoints {
 public:
  /// adapter: what PEFT has to know of it; nothing with full fine-tuning.
  RunCheckpoints(std::filesystem::path output_dir, const SaveOptions& options, std::optional<AdapterConfig> adapter,
                 World& world, Decoder& decoder, Optimizer& optimizer);

  /// Weights and optimizer state, or weights alone. updates: how many the optimizer has made of the checkpoint's steps.
  /// Error{Fault::data} when it belongs to another model.
  void restore(const LoadedCheckpoint& checkpoint, std::int64_t updates);
  void restore_weights(const LoadedCheckpoint& checkpoint);

  /// A disk that is too small for the checkpoints of the steps to come, of so many bytes each, is found before
  /// the first step, not after a night. Error{Fault::running}.
  void require_disk(std::int64_t checkpoint_bytes, std::int64_t step, std::int64_t steps) const;

  /// checkpoint-<step>, in the background, except where a copy would double what full fine-tuning keeps in the host's
  /// memory. best: the step whose checkpoint is not to be removed, if any.
  void save(std::int64_t step, const std::map<std::string, std::string>& facts, std::optional<std::int64_t> best);
  std::int64_t saved() const { return saved_; }  // the last step that save() was called for here, else -1

  /// Throws what a save in the background threw; finish() waits for it.
  void check();
  void finish() { background_.finish(); }

  /// output_dir/final, as PEFT reads it. By the rank that writes.
  void write_final_adapter() const;

 private:
  TrainingState state(std::int64_t step, const std::map<std::string, std::string>& facts,
                      std::vector<at::Tensor>& host) const;
  BackgroundSave::Write whole_writer(std::optional<std::int64_t> best) const;
  BackgroundSave::Write part_writer(std::int64_t step, std::optional<std::int64_t> best);

  const std::filesystem::path folder_;
  const SaveOptions options_;
  const std::optional<AdapterConfig> adapter_;
  World& world_;
  Decoder& decoder_;
  Optimizer& optimizer_;
  std::int64_t saved_ = -1;
  BackgroundSave background_;
  std::optional<UninterruptedWrite> unfinished_;
};

}  // namespace tune

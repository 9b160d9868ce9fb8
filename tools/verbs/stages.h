#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "recipes/schema/reader.h"
#include "train/run_checkpoints.h"

namespace tune {

/// "stage 2 of 2, dpo, in runs/zephyr/2-dpo"
std::string title_of(const Stages& all, std::size_t stage);

/// Where a run with stages has put them, by their numbers: 1-sft, 2-dpo. Empty for a run without stages, and for what
/// is no run.
std::map<std::int64_t, std::filesystem::path> stage_folders(const std::filesystem::path& run);

/// The stage's recipe as it can be looked at before those before it have run: with the model that they start from in
/// place of one that they will have made. It has the same shapes and the same tokenizer.
Recipe before_its_turn(const Stages& all, std::size_t stage);

/// That, unless what they make is there.
Recipe as_it_is_now(const Stages& all, std::size_t stage);

/// Checks every stage before the first one begins, so that a night isn't lost to the path of the last one's data, and
/// returns how many of the first ones have been handed over already, the last one and those from `most` on never among
/// them. Tokens are left for the runs. One Error for the mistakes of all stages.
std::size_t check_stages(const Stages& all, std::int64_t ranks, std::size_t most);

/// What --resume says, of each stage for itself: a checkpoint's folder belongs to the stage in whose folder it lies,
/// and the others go on from where they are.
class StagesResume {
 public:
  /// text: auto, never, or a folder. Error{Fault::recipe} for one that lies in no stage's folder.
  StagesResume(const Stages& all, const std::string& text);

  ResumeOption of(std::size_t stage) const;
  std::size_t first_to_run() const;  // at the latest

 private:
  ResumeOption option_;
  std::size_t stage_ = 0;  // of the folder
  std::size_t count_ = 1;
};

}  // namespace tune

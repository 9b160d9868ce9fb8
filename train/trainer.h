#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/weights.h"
#include "recipes/schema/recipe.h"
#include "train/evaluate.h"
#include "train/parallel/world.h"
#include "train/run_checkpoints.h"

namespace tune {

struct Sample {
  std::string prompt, before, after;
};

struct RunResult {
  bool interrupted = false;  // a checkpoint is on disk; exit code 75
  std::int64_t steps = 0;    // done in all
  std::int64_t resumed_from = 0;
  double seconds = 0;                  // of this process's training, evaluation included
  std::optional<Score> before, after;  // with eval_datasets only
  std::vector<Sample> samples;
  std::filesystem::path final_folder;           // an adapter has been written there
  std::unique_ptr<WeightSource> tuned_weights;  // full fine-tuning: the whole model, for the caller to write there
};

/// The main job: plans, loads, resumes, trains, saves. Progress goes to stderr, everything else into recipe.output_dir,
/// which the caller has locked (checkpoints/files/output_lock.h). Of several ranks each calls it; the first one writes.
RunResult run_training(const Recipe& recipe, const ResumeOption& resume, World& world);

}  // namespace tune

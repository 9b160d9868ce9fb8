#include "tools/verbs/stages.h"

#include <fmt/format.h>

#include <vector>

#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/units.h"
#include "tools/verbs/checked_plan.h"
#include "train/device.h"
#include "train/run_record.h"

namespace tune {
namespace {

namespace fs = std::filesystem;

// Each run says its warnings itself.
class Silence {
 public:
  Silence() { fall_silent(); }
  ~Silence() { speak_again(); }
  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;
};

fs::path real_path(const fs::path& path) {
  std::error_code unreadable;
  const fs::path real = fs::weakly_canonical(path, unreadable);
  return real.has_filename() ? real : real.parent_path();
}

[[noreturn]] void raise(const std::vector<Error>& mistakes) {
  if (mistakes.size() == 1) throw Error(mistakes.front());
  std::string text;
  for (const Error& mistake : mistakes) text += (text.empty() ? "" : "\n") + std::string(mistake.what());
  throw Error{mistakes.front().fault(), {}, text};
}

}  // namespace

std::string title_of(const Stages& all, std::size_t stage) {
  const Recipe& recipe = all.recipes.at(stage);
  return fmt::format("stage {} of {}, {}, in {}", stage + 1, all.recipes.size(), spelling(recipe.stage),
                     recipe.output_dir);
}

std::map<std::int64_t, fs::path> stage_folders(const fs::path& run) {
  std::map<std::int64_t, fs::path> folders;
  if (fs::exists(run / "recipe.yaml")) return folders;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(run, unreadable)) {
    const std::string name = entry.path().filename().string();
    const auto number = parse_whole_number(name.substr(0, name.find('-')));
    if (number && fs::exists(entry.path() / "recipe.yaml")) folders[*number] = entry.path();
  }
  return folders;
}

Recipe before_its_turn(const Stages& all, std::size_t stage) {
  Recipe recipe = all.recipes.at(stage);
  for (std::size_t i = stage; i-- > 0;) {
    const Recipe& before = all.recipes[i];
    if (recipe.model.base_model != before.output_dir + "/final") continue;
    recipe.model.base_model = before.model.base_model;
    // what it will have made speaks the format that it was trained with
    if (recipe.data.chat_template == kModelTemplate && before.data.chat_template != "none")
      recipe.data.chat_template = before.data.chat_template;
  }
  return recipe;
}

Recipe as_it_is_now(const Stages& all, std::size_t stage) {
  const Recipe& recipe = all.recipes.at(stage);
  return fs::exists(recipe.model.base_model) ? recipe : before_its_turn(all, stage);
}

std::size_t check_stages(const Stages& all, std::int64_t ranks, std::size_t most) {
  tell("checking {} stages\n", all.recipes.size());
  const Silence silence;
  std::vector<Error> mistakes;
  std::size_t done = 0;
  for (std::size_t i = 0; i < all.recipes.size(); ++i) {
    try {
      Recipe recipe = done == i ? all.recipes[i] : before_its_turn(all, i);
      const std::string device = chosen_device(recipe.train.device);
      if (recipe.train.precision == Precision::fp8) require_fp8(device, recipe.place_of("train.precision"));
      recipe.train.device = device == "cpu" ? Device::cpu : Device::cuda;
      Inputs inputs;
      checked_plan(recipe, ranks, Purpose::training, &inputs);
      const bool is_last = i + 1 == all.recipes.size();
      if (done == i && i < most && !is_last && is_handed_over(all.recipes[i], inputs)) ++done;
    } catch (const Error& mistake) {
      mistakes.push_back(mistake);
    }
  }
  if (!mistakes.empty()) raise(mistakes);
  return done;
}

StagesResume::StagesResume(const Stages& all, const std::string& text) : count_(all.recipes.size()) {
  if (text == "auto") return;
  if (text == "never") {
    option_.mode = ResumeOption::Mode::never;
    return;
  }
  option_ = {.mode = ResumeOption::Mode::folder, .folder = text};
  if (!all.listed) return;
  const fs::path parent = real_path(text).parent_path();
  while (stage_ < count_ && real_path(all.recipes[stage_].output_dir) != parent) ++stage_;
  if (stage_ == count_)
    throw Error{Fault::recipe,
                {text},
                "this checkpoint lies in no stage's folder",
                fmt::format("give one in {} or a later stage's", all.recipes.front().output_dir)};
}

ResumeOption StagesResume::of(std::size_t stage) const {
  if (option_.mode == ResumeOption::Mode::folder && stage != stage_) return {};
  return option_;
}

std::size_t StagesResume::first_to_run() const {
  switch (option_.mode) {
    case ResumeOption::Mode::never:
      return 0;
    case ResumeOption::Mode::folder:
      return stage_;
    case ResumeOption::Mode::automatic:
      break;
  }
  return count_ - 1;
}

}  // namespace tune

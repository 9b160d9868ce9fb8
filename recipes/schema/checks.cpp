#include "recipes/schema/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/suggest.h"

namespace tune {
namespace {

std::filesystem::path plain(const std::string& path) {
  std::error_code no_working_directory;
  const auto normal = std::filesystem::absolute(path, no_working_directory).lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

// What a row of the type consists of, in our words.
std::vector<std::string> names_of(DatasetType type) {
  switch (type) {
    case DatasetType::chat:
      return {"messages", "role", "content"};
    case DatasetType::alpaca:
      return {"instruction", "input", "output"};
    case DatasetType::prompt_completion:
      return {"prompt", "completion"};
    case DatasetType::text:
      return {"text"};
    case DatasetType::fim:
      return {"text", "prefix", "middle", "suffix"};
    case DatasetType::preference:
      return {"prompt", "chosen", "rejected", "role", "content"};
    case DatasetType::unpaired_preference:
      return {"prompt", "completion", "label", "role", "content"};
  }
  return {};
}

bool is_compared(DatasetType type) {
  return type == DatasetType::preference || type == DatasetType::unpaired_preference;
}

// One function a sentence, named after it.

void weights_are_trained_in_the_precision_or_in_fp32(const Recipe& recipe, Reading& reading) {
  const Dtype dtype = dtype_of(recipe), precision = dtype_of(recipe.train.precision);
  if (recipe.adapter.type == AdapterType::none && dtype != precision && dtype != Dtype::fp32)
    reading.problems.add(
        reading.place_of("model.dtype"),
        fmt::format("dtype is {}, but all weights are trained with precision {}", spelling(dtype), spelling(precision)),
        fmt::format("write dtype: {}, or precision: {}", spelling(precision), spelling(dtype)));
}

void lora_computes_in_the_dtype_of_its_base(const Recipe& recipe, Reading& reading) {
  if (!has_adapter(recipe.adapter)) return;
  if (dtype_of(recipe) != dtype_of(recipe.train.precision))
    reading.problems.add(reading.place_of("model.dtype"),
                         fmt::format("dtype is {}, but precision is {}: a frozen base computes in its own dtype",
                                     spelling(*recipe.model.dtype), spelling(recipe.train.precision)),
                         recipe.train.precision == Precision::fp8
                             ? "leave dtype out"
                             : "leave dtype out, or write the same in both places");
}

void target_modules_are_linear_layers(const Recipe& recipe, Reading& reading) {
  const auto& modules = recipe.adapter.lora_target_modules;
  const Place place = reading.place_of("adapter.lora_target_modules");
  if (modules.empty() && has_adapter(recipe.adapter))
    reading.problems.add(place, "lora_target_modules is empty", "write all-linear, or names such as q_proj");
  for (const std::string& module : modules) {
    if (module == "all-linear") {
      if (modules.size() > 1)
        reading.problems.add(place, "lora_target_modules holds all-linear and other names", "all-linear stands alone");
      continue;
    }
    if (std::find(kLinearModules.begin(), kLinearModules.end(), module) != kLinearModules.end()) continue;
    auto known = kLinearModules;
    known.push_back("all-linear");
    const auto meant = module == "all" ? std::optional<std::string>("all-linear") : nearest(module, known);
    reading.problems.add(place, fmt::format("lora_target_modules holds {}", in_quotes(module)),
                         meant ? fmt::format("did you mean {}?", *meant) : "linear layers are " + one_of(known));
  }
}

void an_adapter_to_start_from_needs_type_lora(const Recipe& recipe, Reading& reading) {
  if (!has_adapter(recipe.adapter) && !recipe.adapter.init_adapter.empty())
    reading.problems.add(reading.place_of("adapter.init_adapter"), "init_adapter is given, but adapter.type is none",
                         "write type: lora, or merge the adapter into the base model first");
}

void adapters_on_routers_are_named_gate(const Recipe& recipe, Reading& reading) {
  if (recipe.train.train_router && has_adapter(recipe.adapter))
    reading.problems.add(reading.place_of("train.train_router"),
                         fmt::format("train_router is true, but adapter.type is {}", spelling(recipe.adapter.type)),
                         "name gate in lora_target_modules, or write adapter.type: none");
}

void warm_up_and_decay_fit_into_the_steps(const Recipe& recipe, Reading& reading) {
  const TrainOptions& train = recipe.train;
  if (train.lr_scheduler_type == Scheduler::wsd && train.warmup_steps == 0 &&
      train.warmup_ratio + train.decay_ratio > 1)
    reading.problems.add(
        reading.place_of("train.decay_ratio"),
        fmt::format("warmup_ratio {} + decay_ratio {} is more than 1", train.warmup_ratio, train.decay_ratio),
        "together they share all steps");
  if (train.max_steps > 0 && train.warmup_steps > train.max_steps)
    reading.problems.add(reading.place_of("train.warmup_steps"),
                         fmt::format("warmup_steps is {}, max_steps only {}", train.warmup_steps, train.max_steps),
                         "warm up for fewer steps");
}

void holding_out_every_row_leaves_nothing(const Recipe& recipe, Reading& reading) {
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i)
      if (datasets[i].holdout_every == 1)
        reading.problems.add(reading.place_of(fmt::format("data.{}[{}].holdout_every", name, i)), "holdout_every is 1",
                             "it must be 2 or more, or 0 for all rows");
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
}

void keys_of_data_sets_have_an_effect(const Recipe& recipe, Reading& reading) {
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i)
      if (!datasets[i].field_roles.empty() && datasets[i].type != DatasetType::chat && !is_compared(datasets[i].type))
        reading.problems.add(reading.place_of(fmt::format("data.{}[{}].field_roles", name, i)),
                             fmt::format("field_roles with type {}, which has no roles", spelling(datasets[i].type)),
                             "leave it out, or write type: chat");
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
  for (std::size_t i = 0; i < recipe.data.eval_datasets.size(); ++i)
    if (const std::string path = fmt::format("data.eval_datasets[{}].weight", i);
        recipe.data.eval_datasets[i].weight != 1.0)
      reading.problems.add(reading.place_of(path), "weight has no effect on evaluation: every row is taken once",
                           "leave it out");
}

void filling_in_needs_type_fim_and_room(const Recipe& recipe, Reading& reading) {
  constexpr std::int64_t kLeastLength = 32;  // the four tokens, and something before, behind and between them
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i) {
      const std::string path = fmt::format("data.{}[{}]", name, i);
      const DatasetOptions& options = datasets[i];
      for (const auto& [key, value] :
           {std::pair("fim_rate", options.fim_rate), std::pair("fim_spm_rate", options.fim_spm_rate)})
        if (value && options.type != DatasetType::fim)
          reading.problems.add(reading.place_of(path + "." + key),
                               fmt::format("{} with type {}, which fills nothing in", key, spelling(options.type)),
                               "leave it out, or write type: fim");
      if (options.type == DatasetType::fim && recipe.data.max_length < kLeastLength)
        reading.problems.add(reading.place_of("data.max_length"),
                             fmt::format("max_length is {}, but a data set is of type fim", recipe.data.max_length),
                             fmt::format("write {} or more", kLeastLength));
    }
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
}

void rows_are_not_trained_and_evaluated_at_once(const Recipe& recipe, Reading& reading) {
  for (std::size_t i = 0; i < recipe.data.eval_datasets.size(); ++i) {
    const DatasetOptions& eval = recipe.data.eval_datasets[i];
    for (const DatasetOptions& train : recipe.data.datasets)
      if (!eval.path.empty() && plain(eval.path) == plain(train.path) &&
          (eval.holdout_every == 0 || eval.holdout_every != train.holdout_every))
        reading.problems.add(reading.place_of(fmt::format("data.eval_datasets[{}].path", i)),
                             fmt::format("{} is trained on and evaluated on", in_quotes(eval.path)),
                             "write the same holdout_every: 10 in both places, or name another file");
  }
}

void roles_are_system_user_assistant(const Recipe& recipe, Reading& reading) {
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i)
      for (const auto& [theirs, ours] : datasets[i].field_roles)
        if (ours != "system" && ours != "user" && ours != "assistant")
          reading.problems.add(reading.place_of(fmt::format("data.{}[{}].field_roles.{}", name, i, theirs)),
                               fmt::format("role {} maps to {}", in_quotes(theirs), in_quotes(ours)),
                               "it must be system, user or assistant");
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
}

void field_names_are_those_of_the_type(const Recipe& recipe, Reading& reading) {
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i) {
      const std::vector<std::string> known = names_of(datasets[i].type);
      for (const auto& [ours, theirs] : datasets[i].field_names) {
        if (std::find(known.begin(), known.end(), ours) != known.end()) continue;
        const auto turned = std::find(known.begin(), known.end(), theirs);
        const auto meant = nearest(ours, known);
        reading.problems.add(reading.place_of(fmt::format("data.{}[{}].field_names.{}", name, i, ours)),
                             fmt::format("field_names has {}; a data set of type {} has {}", in_quotes(ours),
                                         spelling(datasets[i].type), one_of(known)),
                             turned != known.end() ? fmt::format("our name comes first: {{{}: {}}}", theirs, ours)
                             : meant               ? fmt::format("did you mean {}?", *meant)
                                                   : "our name comes first: {" + known.front() + ": name in the file}");
      }
    }
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
}

void pairs_are_for_stage_dpo(const Recipe& recipe, Reading& reading) {
  const bool dpo = recipe.stage == Stage::dpo, kto = recipe.preference.loss_type == PreferenceLoss::kto;
  const DatasetType compared = kto ? DatasetType::unpaired_preference : DatasetType::preference;
  const auto check = [&](const std::vector<DatasetOptions>& datasets, const std::string& name) {
    for (std::size_t i = 0; i < datasets.size(); ++i) {
      const Place place = reading.place_of(fmt::format("data.{}[{}].type", name, i));
      const DatasetType type = datasets[i].type;
      if (is_compared(type) != dpo)
        reading.problems.add(place, fmt::format("type is {}, but stage is {}", spelling(type), spelling(recipe.stage)),
                             dpo ? fmt::format("stage dpo learns from type: {}", spelling(compared))
                             : type == DatasetType::preference ? "pairs are for stage: dpo"
                                                               : "good and bad answers are for stage: dpo");
      else if (dpo && type != compared)
        reading.problems.add(
            place,
            fmt::format("type is {}, but loss_type is {}", spelling(type), spelling(recipe.preference.loss_type)),
            kto ? "kto learns from single answers, good or bad: write type: unpaired_preference"
                : "single answers are for preference.loss_type: kto; the others learn from type: preference");
    }
  };
  check(recipe.data.datasets, "datasets");
  check(recipe.data.eval_datasets, "eval_datasets");
  if (!dpo) return;
  if (recipe.data.overflow == Overflow::truncate || recipe.data.overflow == Overflow::split)
    reading.problems.add(reading.place_of("data.overflow"),
                         fmt::format("overflow is {}, but half a pair teaches nothing", spelling(recipe.data.overflow)),
                         "write error or drop");
  if (recipe.data.train_on == TrainOn::all)
    reading.problems.add(reading.place_of("data.train_on"),
                         "train_on is all, but of a pair only the answers are compared", "leave it out");
}

void settings_of_pairs_go_with_their_loss(const Recipe& recipe, Reading& reading) {
  const PreferenceOptions defaults, &options = recipe.preference;
  const auto refuse = [&](const char* key, const std::string& why) {
    reading.problems.add(reading.place_of(fmt::format("preference.{}", key)),
                         fmt::format("{} is given, but {}", key, why), "leave it out");
  };
  if (recipe.stage != Stage::dpo) {
    const std::string why = fmt::format("stage is {}", spelling(recipe.stage));
    if (options.loss_type != defaults.loss_type) refuse("loss_type", why);
    if (options.beta != defaults.beta) refuse("beta", why);
    if (options.label_smoothing != defaults.label_smoothing) refuse("label_smoothing", why);
    if (options.simpo_gamma != defaults.simpo_gamma) refuse("simpo_gamma", why);
    if (options.desirable_weight != defaults.desirable_weight) refuse("desirable_weight", why);
    if (options.undesirable_weight != defaults.undesirable_weight) refuse("undesirable_weight", why);
    return;
  }
  const std::string why = fmt::format("loss_type is {}", spelling(options.loss_type));
  if (options.label_smoothing > 0 && options.loss_type != PreferenceLoss::sigmoid &&
      options.loss_type != PreferenceLoss::simpo)
    refuse("label_smoothing", why);
  if (options.simpo_gamma != defaults.simpo_gamma && options.loss_type != PreferenceLoss::simpo)
    refuse("simpo_gamma", why);
  if (options.loss_type != PreferenceLoss::kto) {
    if (options.desirable_weight != defaults.desirable_weight) refuse("desirable_weight", why);
    if (options.undesirable_weight != defaults.undesirable_weight) refuse("undesirable_weight", why);
  } else if (options.desirable_weight == 0 && options.undesirable_weight == 0) {
    reading.problems.add(reading.place_of("preference.undesirable_weight"),
                         "desirable_weight and undesirable_weight are both 0, so that nothing is learned",
                         "raise one of them, or leave them out");
  }
}

void pretraining_trains_everything(const Recipe& recipe, Reading& reading) {
  if (recipe.stage == Stage::pretrain && recipe.data.train_on != TrainOn::all)
    reading.problems.add(
        reading.place_of("data.train_on"),
        fmt::format("train_on is {}, but stage pretrain trains every token", spelling(recipe.data.train_on)),
        "leave it out or write all");
}

void eval_steps_need_eval_datasets(const Recipe& recipe, Reading& reading) {
  if (recipe.eval.eval_steps > 0 && recipe.data.eval_datasets.empty())
    reading.problems.add(reading.place_of("eval.eval_steps"),
                         fmt::format("eval_steps is {}, but there are no data.eval_datasets", recipe.eval.eval_steps),
                         "name some, or leave eval_steps out");
}

void the_best_step_is_found_by_evaluation(const Recipe& recipe, Reading& reading) {
  const EvalOptions& eval = recipe.eval;
  const auto needs = [&](const std::string& key, const std::string& what) {
    if (recipe.data.eval_datasets.empty())
      reading.problems.add(reading.place_of(key), what + ", but there are no data.eval_datasets",
                           "name some, or leave it out");
    else if (eval.eval_steps == 0)
      reading.problems.add(reading.place_of(key), what + ", but eval.eval_steps is 0: only the end is evaluated",
                           "write eval_steps, such as 100, or leave it out");
  };
  if (eval.early_stopping_patience > 0)
    needs("eval.early_stopping_patience", fmt::format("early_stopping_patience is {}", eval.early_stopping_patience));
  else if (eval.early_stopping_threshold > 0)
    reading.problems.add(reading.place_of("eval.early_stopping_threshold"),
                         "early_stopping_threshold is given, but early_stopping_patience is 0",
                         "write early_stopping_patience, such as 3, or leave it out");
  if (recipe.save.load_best_model_at_end) needs("save.load_best_model_at_end", "load_best_model_at_end is true");
}

void output_does_not_overwrite_the_base_model(const Recipe& recipe, Reading& reading) {
  if (!recipe.model.base_model.empty() && plain(recipe.output_dir) == plain(recipe.model.base_model))
    reading.problems.add(reading.place_of("output_dir"), "output_dir is the base model's folder", "name another one");
}

void only_shards_have_a_size_and_are_kept_or_not(const Recipe& recipe, Reading& reading) {
  if (recipe.distributed.strategy == Strategy::shard) return;
  if (recipe.distributed.shard_size != 0)
    reading.problems.add(reading.place_of("distributed.shard_size"), "shard_size is given, but nothing is sharded",
                         "write strategy: shard, or leave it out");
  if (!recipe.distributed.reshard_after_forward)
    reading.problems.add(reading.place_of("distributed.reshard_after_forward"),
                         "reshard_after_forward is false, but nothing is sharded",
                         "write strategy: shard, or leave it out");
}

}  // namespace

void check_combinations(const Recipe& recipe, Reading& reading) {
  weights_are_trained_in_the_precision_or_in_fp32(recipe, reading);
  lora_computes_in_the_dtype_of_its_base(recipe, reading);
  target_modules_are_linear_layers(recipe, reading);
  an_adapter_to_start_from_needs_type_lora(recipe, reading);
  adapters_on_routers_are_named_gate(recipe, reading);
  warm_up_and_decay_fit_into_the_steps(recipe, reading);
  holding_out_every_row_leaves_nothing(recipe, reading);
  rows_are_not_trained_and_evaluated_at_once(recipe, reading);
  roles_are_system_user_assistant(recipe, reading);
  field_names_are_those_of_the_type(recipe, reading);
  keys_of_data_sets_have_an_effect(recipe, reading);
  filling_in_needs_type_fim_and_room(recipe, reading);
  pairs_are_for_stage_dpo(recipe, reading);
  settings_of_pairs_go_with_their_loss(recipe, reading);
  pretraining_trains_everything(recipe, reading);
  eval_steps_need_eval_datasets(recipe, reading);
  check_adapter_combinations(recipe, reading);
  the_best_step_is_found_by_evaluation(recipe, reading);
  check_export_combinations(recipe, reading);
  check_optimizer_combinations(recipe, reading);
  output_does_not_overwrite_the_base_model(recipe, reading);
  only_shards_have_a_size_and_are_kept_or_not(recipe, reading);
}

}  // namespace tune

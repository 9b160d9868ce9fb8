#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "recipes/schema/error.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/units.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/checked_plan.h"
#include "tools/verbs/recipe_argument.h"
#include "tools/verbs/stages.h"
#include "tools/verbs/verbs.h"
#include "train/device.h"
#include "train/inputs.h"
#include "train/plan/plan.h"

namespace tune {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// With --device-memory or fp8 a GPU is asked about, whether or not there is one here; auto means what `tune run` would
// choose.
Device planned_device(const TrainOptions& train, bool device_memory_given) {
  if (train.device != Device::automatic) return train.device;
  return device_memory_given || train.precision == Precision::fp8 || gpu_expected() ? Device::cuda : Device::cpu;
}

nlohmann::ordered_json json_of(const std::vector<MemoryItem>& items) {
  nlohmann::ordered_json memory = nlohmann::ordered_json::object();
  for (const MemoryItem& item : items) memory[item.name] = item.bytes;
  return memory;
}

nlohmann::ordered_json json_of(const Plan& plan, Device device) {
  const nlohmann::ordered_json rank = {{"device", device == Device::cuda ? "cuda" : "cpu"},
                                       {"peak_bytes", plan.peak_bytes()},
                                       {"memory", json_of(plan.memory)},
                                       {"host_memory", json_of(plan.host_memory)}};
  return {{"steps", plan.steps},
          {"steps_per_epoch", plan.steps_per_epoch},
          {"tokens_per_epoch", plan.tokens_per_epoch},
          {"micro_batch_tokens", plan.micro_batch_tokens},
          {"parameters", plan.parameters},
          {"trainable_parameters", plan.trainable_parameters},
          {"ranks", std::vector(static_cast<std::size_t>(plan.ranks), rank)}};
}

void print_item(const std::string& name, std::int64_t bytes) {
  fmt::print("  {:<32}{:>9.3f}\n", name, static_cast<double>(bytes) / kGiB);
}

void print_table(const Plan& plan, Device device) {
  const std::string whose = plan.ranks > 1 ? fmt::format(" of each of {} ranks", plan.ranks) : "";
  fmt::print("steps                {:>14}   ({} an epoch)\n", plan.steps, plan.steps_per_epoch);
  fmt::print("tokens an epoch      {:>14}\n", plan.tokens_per_epoch);
  fmt::print("largest micro-batch  {:>14}   tokens\n", plan.micro_batch_tokens);
  fmt::print("parameters           {:>14}\n", plan.parameters);
  fmt::print("trained              {:>14}   ({:.2f} %)\n\nmemory {} at the peak, GiB\n", plan.trainable_parameters,
             100.0 * static_cast<double>(plan.trainable_parameters) / static_cast<double>(plan.parameters),
             fmt::format("{}{}", device == Device::cuda ? "of the GPU" : "of the program", whose));
  for (const MemoryItem& item : plan.memory) print_item(item.name, item.bytes);
  print_item("total", plan.peak_bytes());
  if (plan.host_memory.empty()) return;
  fmt::print("\npinned memory of the host{}, GiB\n", whose);
  for (const MemoryItem& item : plan.host_memory) print_item(item.name, item.bytes);
}

bool may_be_offloaded(const Recipe& recipe) {
  const TrainOptions& train = recipe.train;
  return train.device == Device::cuda && !train.offload_optimizer &&
         (train.optim == OptimizerType::adamw || train.optim == OptimizerType::adamw_8bit);
}

// What takes least away from the training comes first.
std::string remedy_of(const Recipe& recipe, std::int64_t ranks) {
  std::vector<std::string> ways;
  if (!recipe.train.gradient_checkpointing) ways.emplace_back("set train.gradient_checkpointing: true");
  if (ranks > 1 && recipe.distributed.strategy == Strategy::ddp) ways.emplace_back("set distributed.strategy: shard");
  if (recipe.adapter.type == AdapterType::lora)
    ways.emplace_back(recipe.train.precision == Precision::fp8
                          ? "keep the base in four bits (adapter.type: qlora, train.precision: bf16)"
                          : "keep the base in four bits (adapter.type: qlora)");
  if (!has_adapter(recipe.adapter) && may_be_offloaded(recipe))
    ways.emplace_back("keep the optimizer's state in the host's memory (train.offload_optimizer: true)");
  if (!has_adapter(recipe.adapter) && ranks == 1 && !recipe.train.optimizer_in_backward)
    ways.emplace_back("update in the backward pass (train.optimizer_in_backward: true)");
  if (!has_adapter(recipe.adapter)) ways.emplace_back("train an adapter (adapter.type: lora or qlora)");
  if (recipe.train.per_device_train_batch_size > 1) ways.emplace_back("lower train.per_device_train_batch_size");
  ways.emplace_back("lower data.max_length");
  if (ranks == 1) ways.emplace_back("take more GPUs (distributed.strategy: shard, --nproc)");
  const std::string last = ways.back();
  ways.pop_back();
  return fmt::format("{}, or {}", fmt::join(ways, ", "), last);
}

// whose: "" or "stage 2: "
void require_room(const Plan& plan, const Recipe& recipe, std::int64_t room, const std::string& whose) {
  const double needed = static_cast<double>(plan.peak_bytes()) / kGiB, there = static_cast<double>(room) / kGiB;
  if (plan.peak_bytes() > room)
    throw Error{Fault::memory,
                {},
                fmt::format("{}{:.2f} GiB are needed, {:.2f} GiB are there", whose, needed, there),
                remedy_of(recipe, plan.ranks)};
  tell("{}fits: {:.2f} GiB are needed, {:.2f} GiB are there\n", whose, needed, there);
}

struct StagePlan {
  Recipe recipe;
  Plan plan;
  std::string title;  // "" where there are no stages
};

// Of the stages from `first` up to but not including `end`.
std::vector<StagePlan> plans_of(const Stages& all, std::int64_t ranks, bool device_memory_given, std::size_t first,
                                std::size_t end) {
  std::vector<StagePlan> plans;
  for (std::size_t i = first; i < end; ++i) {
    Recipe recipe = as_it_is_now(all, i);
    recipe.train.device = planned_device(recipe.train, device_memory_given);
    Plan plan = checked_plan(recipe, ranks, Purpose::planning);
    plans.push_back({std::move(recipe), std::move(plan), all.listed ? title_of(all, i) : ""});
  }
  return plans;
}

void print_tables(const std::vector<StagePlan>& plans) {
  for (const StagePlan& each : plans) {
    if (!each.title.empty()) fmt::print("{}{}\n\n", &each == &plans.front() ? "" : "\n", each.title);
    print_table(each.plan, each.recipe.train.device);
  }
}

void print_json(const std::vector<StagePlan>& plans, bool as_stages) {
  nlohmann::ordered_json json = json_of(plans.front().plan, plans.front().recipe.train.device);
  if (as_stages) {
    json = {{"stages", nlohmann::ordered_json::array()}};
    for (const StagePlan& each : plans) json["stages"].push_back(json_of(each.plan, each.recipe.train.device));
  }
  fmt::print("{}\n", json.dump(2));
}

}  // namespace

void print_plans(const Stages& all, std::int64_t ranks) {
  print_tables(plans_of(all, ranks, false, 0, all.recipes.size()));
}

int plan_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  po::options_description options("Options");
  add_recipe_options(options);
  add_stage_option(options);
  options.add_options()(
      "device-memory", po::value<std::string>(),
      "does it fit into this much of a GPU (of the machine with train.device: cpu), for example 24GiB; exit "
      "code 4 if not")("nproc", po::value<std::int64_t>()->default_value(1), "ranks that share the run, on all hosts")(
      "json", "one JSON object on stdout");
  po::variables_map values;
  if (!parse_arguments(arguments, "plan",
                       "Checks recipe, data and model and prints what is known before the first step.",
                       "tune plan --recipe quickstart --device-memory 8GiB", options, values))
    return 0;
  const Stages all = stages_argument(values);
  const std::int64_t ranks = values["nproc"].as<std::int64_t>();
  if (ranks < 1) throw Error{Fault::recipe, {}, fmt::format("--nproc is {}", ranks), "plan for at least one rank"};
  const bool with_room = values.count("device-memory") != 0;
  const bool only_one = values.count("stage") != 0;
  const std::size_t last = chosen_stage(all, values);
  const std::vector<StagePlan> plans = plans_of(all, ranks, with_room, only_one ? last : 0, last + 1);
  values.count("json") != 0 ? print_json(plans, all.listed && !only_one) : print_tables(plans);
  if (!with_room) return 0;
  const std::int64_t room = parse_device_memory(values["device-memory"].as<std::string>(), "--device-memory");
  for (const StagePlan& each : plans)
    require_room(each.plan, each.recipe, room, each.title.empty() ? "" : each.title + ": ");
  return 0;
}

}  // namespace tune

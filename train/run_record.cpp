#include "train/run_record.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/hash.h"
#include "checkpoints/peft/adapter_folder.h"
#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/writer.h"
#include "train/device.h"
#include "train/kernels/matmul.h"
#include "train/model_hash.h"
#include "train/parallel/rank.h"
#include "train/revision.h"

namespace tune {
namespace {

using Json = nlohmann::ordered_json;

// What may change between a run and its continuation without changing what is computed.
Recipe without_harmless_keys(Recipe recipe) {
  recipe.file.clear();
  recipe.save = {};
  recipe.logging = {};
  recipe.distributed = {};
  recipe.exports.clear();
  recipe.output_dir.clear();
  recipe.data.cache_dir.clear();
  recipe.train.offload_optimizer = false;
  // What lies there is known by its hash, wherever it lies.
  recipe.model.base_model.clear();
  recipe.adapter.init_adapter.clear();
  for (auto* datasets : {&recipe.data.datasets, &recipe.data.eval_datasets})
    for (DatasetOptions& options : *datasets) options.path.clear();
  return recipe;
}

// "train.seed" -> "42" of a written recipe; what lies deeper than two levels belongs to its second.
std::map<std::string, std::string> flat(const std::string& written) {
  std::map<std::string, std::string> keys;
  std::istringstream lines(written);
  std::string section, key;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t depth = line.find_first_not_of(' '), colon = line.find(':');
    if (depth > 2) {
      keys[key] += line.substr(depth - 1);
      continue;
    }
    const std::string name = line.substr(depth, colon - depth);
    if (depth == 0) section = name;
    key = depth == 0 ? name : section + "." + name;
    keys[key] = colon + 2 < line.size() ? line.substr(colon + 2) : "";
  }
  return keys;
}

std::string differing_keys(const std::string& now, const std::string& then) {
  const std::map<std::string, std::string> after = flat(now), before = flat(then);
  std::vector<std::string> differences;
  for (const auto& [key, value] : after)
    if (const auto old = before.find(key); old == before.end())
      differences.push_back(fmt::format("{} is {} now", key, value));
    else if (old->second != value)
      differences.push_back(fmt::format("{} is {} now, {} in the checkpoint", key, value, old->second));
  for (const auto& [key, value] : before)
    if (!after.contains(key)) differences.push_back(fmt::format("{} is missing now, {} in the checkpoint", key, value));
  return fmt::format("{}", fmt::join(differences, "; "));
}

std::string strategy_of(const DistributedOptions& options, std::int64_t ranks) {
  if (options.strategy != Strategy::shard || ranks == 1 || options.shard_size == 1) return "ddp";
  return fmt::format("shard over {}", options.shard_size > 0 ? options.shard_size : ranks);
}

// Rows as the model sees them: stronger than a hash of the files, blind to how they are stored.
std::string hash_of(const TokenDataset& rows) {
  std::string all;
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    const RowView row = rows.row(i);
    all += xxh3_128(std::as_bytes(row.ids));
    all += xxh3_128(std::as_bytes(row.trained));
  }
  return xxh3_128(all);
}

std::string hash_of_adapter(const std::string& folder) {
  return folder.empty() ? "" : xxh3_128_of_file(adapter_folder(folder) / kAdapterWeightsFile);
}

// What a result depends on, but for the machine. Of each that is no recipe: the key that names it.
constexpr std::array<std::pair<const char*, const char*>, 4> kHashed = {{{"model", "model.base_model"},
                                                                         {"init_adapter", "adapter.init_adapter"},
                                                                         {"data", "data.datasets"},
                                                                         {"evaluation_data", "data.eval_datasets"}}};

std::map<std::string, std::string> facts_of(const Recipe& recipe, const Inputs& inputs) {
  return {{"recipe", write_recipe(without_harmless_keys(recipe))},
          {"data", hash_of(*inputs.train_rows)},
          {"evaluation_data", inputs.evaluation_rows ? hash_of(*inputs.evaluation_rows) : ""},
          {"model", hash_of(inputs.base)},
          {"init_adapter", hash_of_adapter(recipe.adapter.init_adapter)}};
}

std::filesystem::path run_file(const std::filesystem::path& output_dir) { return output_dir / "run.json"; }

Json read_json(const std::filesystem::path& file) {
  std::ifstream stream(file);
  return Json::parse(stream, nullptr, false);
}

std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Json as_json(const Plan& plan) {
  Json memory = Json::object();
  for (const MemoryItem& item : plan.memory) memory[item.name] = item.bytes;
  return {{"steps", plan.steps},
          {"steps_per_epoch", plan.steps_per_epoch},
          {"tokens_per_epoch", plan.tokens_per_epoch},
          {"parameters", plan.parameters},
          {"trainable_parameters", plan.trainable_parameters},
          {"peak_bytes", plan.peak_bytes()},
          {"memory", memory}};
}

Json as_json(const Score& score) { return Json::array({score.loss_sum, score.tokens}); }

Score score_from(const std::string& text) {
  const Json pair = Json::parse(text);
  return {pair.at(0).get<double>(), pair.at(1).get<std::int64_t>()};
}

}  // namespace

bool is_handed_over(const Recipe& recipe, const Inputs& inputs) {
  const std::filesystem::path folder = recipe.output_dir;
  const Json run = read_json(run_file(folder));
  if (!run.is_object() || !run.value("handed_over", false) || !std::filesystem::exists(folder / "final")) return false;
  if (text_of(folder / "recipe.yaml") != write_recipe(recipe)) return false;
  const std::map<std::string, std::string> facts = facts_of(recipe, inputs);
  const Json then = run.value("facts", Json::object());
  return std::all_of(kHashed.begin(), kHashed.end(),
                     [&](const auto& hashed) { return then.value(hashed.first, "") == facts.at(hashed.first); });
}

void mark_handed_over(const std::filesystem::path& output_dir) {
  Json run = read_json(run_file(output_dir));
  if (!run.is_object()) return;
  run["handed_over"] = true;
  write_atomically(run_file(output_dir), run.dump(2) + "\n");
}

RunRecord::RunRecord(const Recipe& recipe, const Inputs& inputs, const Plan& plan, std::int64_t ranks)
    : file_(run_file(recipe.output_dir)), facts_(facts_of(recipe, inputs)) {
  facts_["device"] = chosen_device(recipe.train.device);
  facts_["ranks"] = std::to_string(ranks);
  facts_["strategy"] = strategy_of(recipe.distributed, ranks);
  facts_["threads"] = std::to_string(at::get_num_threads());
  facts_["fp32_matmul"] = fp32_matmul_library();
  facts_["libtorch"] = TORCH_VERSION;
  start_ = fmt::format("{} {} {}", recipe.train.precision == Precision::fp8 ? "fp8" : spelling(dtype_of(recipe)),
                       spelling(recipe.adapter.type), facts_.at("init_adapter"));
  Json facts = facts_;
  facts["recipe"] = xxh3_128(facts_["recipe"]);
  const Json head = {{"tune", kRevision},
                     {"host", host_name()},
                     {"device", device_name(chosen_device(recipe.train.device))},
                     {"base_model", recipe.model.base_model},
                     {"facts", facts},
                     {"plan", as_json(plan)}};
  head_ = head.dump();
}

std::string RunRecord::reference_key(const std::string& hash_of_rows) const {
  return xxh3_128(fmt::format("reference-1 {} {} {}", start_, facts_.at("model"), hash_of_rows));
}

void RunRecord::begin() const { write("{}"); }

std::map<std::string, std::string> RunRecord::facts() const {
  std::map<std::string, std::string> facts = facts_;
  facts["answers_before"] = Json(answers_before).dump();
  if (before) facts["before"] = as_json(*before).dump();
  if (latest) facts["latest"] = as_json(*latest).dump();
  if (best_saved) facts["best"] = Json{best_saved->step, as_json(best_saved->score)}.dump();
  if (lowest_loss) facts["lowest_loss"] = Json{*lowest_loss, without_improvement}.dump();
  return facts;
}

void RunRecord::adopt(const std::map<std::string, std::string>& facts, const std::filesystem::path& checkpoint) {
  const auto differs = [&](const std::string& key) {
    const auto stored = facts.find(key);
    return stored != facts.end() && stored->second != facts_.at(key);
  };
  const auto refuse = [&](Fault fault, const std::string& difference) {
    throw Error{fault,
                {checkpoint.string()},
                fmt::format("this is another run: {}", difference),
                "put back what was changed, use another output_dir, or start again with --resume never"};
  };
  if (differs("recipe")) refuse(Fault::recipe, differing_keys(facts_.at("recipe"), facts.at("recipe")));
  for (const auto& [fact, key] : kHashed)
    if (differs(fact)) refuse(Fault::data, fmt::format("what {} names has changed since the checkpoint", key));
  for (const char* fact : {"device", "ranks", "strategy", "threads", "fp32_matmul", "libtorch"})
    if (differs(fact))
      tell("warning: {} is {} now, {} in the checkpoint; the last bits of the result may differ\n", fact,
           facts_.at(fact), facts.at(fact));
  if (const auto it = facts.find("answers_before"); it != facts.end())
    answers_before = Json::parse(it->second).get<std::vector<std::string>>();
  if (const auto it = facts.find("before"); it != facts.end()) before = score_from(it->second);
  if (const auto it = facts.find("latest"); it != facts.end()) latest = score_from(it->second);
  if (const auto it = facts.find("best"); it != facts.end()) {
    const Json pair = Json::parse(it->second);
    best_saved = {pair.at(0).get<std::int64_t>(), score_from(pair.at(1).dump())};
  }
  if (const auto it = facts.find("lowest_loss"); it != facts.end()) {
    const Json pair = Json::parse(it->second);
    lowest_loss = pair.at(0).get<double>();
    without_improvement = pair.at(1).get<std::int64_t>();
  }
}

void RunRecord::finish(std::int64_t steps, std::optional<std::int64_t> skipped_steps, std::int64_t tokens,
                       std::int64_t trained_tokens, double seconds, std::int64_t peak_bytes) const {
  Json totals = {{"steps", steps},
                 {"tokens", tokens},
                 {"trained_tokens", trained_tokens},
                 {"seconds", seconds},
                 {"peak_bytes", peak_bytes}};
  if (skipped_steps) totals["skipped_steps"] = *skipped_steps;
  if (best_saved) totals["best"] = {{"step", best_saved->step}, {"eval_loss", best_saved->score.loss()}};
  write(totals.dump());
}

void RunRecord::write(const std::string& totals) const {
  Json json = Json::parse(head_);
  json["totals"] = Json::parse(totals);
  write_atomically(file_, json.dump(2) + "\n");
}

}  // namespace tune

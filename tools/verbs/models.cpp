#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoints/huggingface/config.h"
#include "recipes/schema/error.h"
#include "recipes/schema/lookup.h"
#include "recipes/schema/suggest.h"
#include "recipes/schema/tell.h"
#include "recipes/schema/units.h"
#include "tools/verbs/arguments.h"
#include "tools/verbs/installed_recipes.h"
#include "tools/verbs/verbs.h"
#include "train/plan/known_models.h"
#include "train/plan/memory.h"
#include "train/plan/plan.h"

namespace tune {
namespace {

using nlohmann::ordered_json;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr const char* kAssumed =
    "Memory of the device, from the code of tune plan: bf16, AdamW, one row of 2048 tokens at a time,\n"
    "gradient_checkpointing; LoRA and QLoRA of rank 16 on all linear layers. Sources, and what else it "
    "takes:\ndocs/models.md";

struct Method {
  const char *name, *title;
  AdapterType adapter;
};
constexpr Method kQlora = {"qlora", "QLoRA", AdapterType::qlora};  // what needs least
constexpr Method kMethods[] = {{"lora", "LoRA", AdapterType::lora}, kQlora, {"full", "full", AdapterType::none}};

// A recipe's defaults, but for what every shipped recipe of such models sets to get by with less memory.
Plan plan_for(const KnownModel& model, const Method& method) {
  Recipe recipe;
  recipe.adapter.type = method.adapter;
  recipe.train.device = Device::cuda;
  recipe.train.per_device_train_batch_size = 1;
  recipe.train.gradient_checkpointing = true;
  return make_plan(recipe, model.config, nullptr);
}

std::int64_t device_bytes(const KnownModel& model, const Method& method) {
  return plan_for(model, method).peak_bytes();
}

std::int64_t weights_bytes(const KnownModel& model) { return 2 * total_parameters(model.config); }  // as published

double gib(std::int64_t bytes) { return static_cast<double>(bytes) / kGiB; }
double billions(std::int64_t count) { return static_cast<double>(count) * 1e-9; }

std::vector<std::string> fitting_methods(const KnownModel& model, std::int64_t room) {
  std::vector<std::string> names;
  for (const Method& method : kMethods)
    if (device_bytes(model, method) <= room) names.emplace_back(method.name);
  return names;
}

// The shipped recipes whose base_model is that model's folder.
std::vector<std::string> recipes_for(const KnownModel& model) {
  const std::string folder = model.repository.substr(model.repository.find('/'));
  std::vector<std::string> names;
  for (const std::filesystem::path& file : list_recipes(installed_recipes())) {
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);)
      if (line.find("base_model:") != std::string::npos && line.ends_with(folder)) names.push_back(file.stem());
  }
  return names;
}

std::string parameters_text(const ModelConfig& config) {
  std::string all = fmt::format("{:.2f} B", billions(total_parameters(config)));
  if (config.num_local_experts == 0) return all;
  return fmt::format("{} ({:.2f} B active)", all, billions(active_parameters(config)));
}

ordered_json json_of(const KnownModel& model, std::optional<std::int64_t> room) {
  const ModelFamily& family = family_of(model);
  ordered_json memory;
  for (const Method& method : kMethods) memory[method.name] = device_bytes(model, method);
  ordered_json json = {{"name", model.name},
                       {"family", family.name},
                       {"repository", model.repository},
                       {"parameters", total_parameters(model.config)},
                       {"active_parameters", active_parameters(model.config)},
                       {"context", model.config.max_position_embeddings},
                       {"licence", model.licence},
                       {"languages", family.languages},
                       {"chat_template", model.chat_template},
                       {"infilling", model.infilling},
                       {"published", model.published},
                       {"strengths", family.strengths},
                       {"limits", family.limits},
                       {"sources", family.sources},
                       {"weights_bytes", weights_bytes(model)},
                       {"memory_bytes", memory},
                       {"recipes", recipes_for(model)},
                       {"config", ordered_json::parse(write_model_config(model.config, Dtype::bf16))}};
  if (room) json["fits"] = fitting_methods(model, *room);
  return json;
}

void print_row(const KnownModel& model, std::optional<std::int64_t> room) {
  fmt::print("  {:<24}{:>25}{:>8}{:>9.1f}{:>8.1f}{:>8.1f}{:>8.1f}  {:<18}{:<14}", model.name,
             parameters_text(model.config), model.config.max_position_embeddings, billions(weights_bytes(model)),
             gib(device_bytes(model, kMethods[0])), gib(device_bytes(model, kMethods[1])),
             gib(device_bytes(model, kMethods[2])), model.licence, model.chat_template);
  if (room) fmt::print("{:<19}", fmt::format("{}", fmt::join(fitting_methods(model, *room), ", ")));
  fmt::print("{}\n", model.published);
}

void print_points(const ModelFamily& family) {
  for (const std::string& point : family.strengths) fmt::print("    + {}\n", point);
  for (const std::string& point : family.limits) fmt::print("    - {}\n", point);
}

void print_table(std::optional<std::int64_t> room) {
  fmt::print("  {:<24}{:>25}{:>8}{:>9}{:>8}{:>8}{:>8}  {:<18}{:<14}{}published\n", "", "parameters", "context",
             "weights", "LoRA", "QLoRA", "full", "licence", "template", room ? "fits               " : "");
  fmt::print("  {:<24}{:>25}{:>8}{:>9}{:>8}{:>8}{:>8}\n", "", "", "tokens", "GB", "GiB", "GiB", "GiB");
  for (const ModelFamily& family : known_families()) {
    bool named = false;
    for (const KnownModel& model : family.models) {
      if (room && fitting_methods(model, *room).empty()) continue;
      if (!named) fmt::print("\n{} ({})\n", family.name, family.languages);
      named = true;
      print_row(model, room);
    }
    if (named) print_points(family);
  }
  fmt::print("\n{}\n", kAssumed);
}

void print_one(const KnownModel& model) {
  const ModelFamily& family = family_of(model);
  const auto line = [](const char* name, const std::string& text) { fmt::print("{:<14}{}\n", name, text); };
  const ModelConfig& c = model.config;
  fmt::print("{} ({})\n\n", model.name, family.name);
  line("published at", "https://huggingface.co/" + model.repository);
  line("parameters", parameters_text(c));
  line("weights", fmt::format("{:.1f} GB in bf16", billions(weights_bytes(model))));
  line("context", fmt::format("{} tokens{}", c.max_position_embeddings,
                              c.sliding_window > 0 ? fmt::format(", window {}", c.sliding_window) : ""));
  line("vocabulary", fmt::format("{}{}", c.vocab_size, model.infilling ? ", with tokens for infilling" : ""));
  line("licence", model.licence);
  line("languages", family.languages);
  line("template", model.chat_template);
  line("measured", model.published);
  const std::vector<std::string> recipes = recipes_for(model);
  line("recipes", recipes.empty() ? "none of its own; set model.base_model in a sibling's"
                                  : fmt::format("{}", fmt::join(recipes, ", ")));
  fmt::print("\n");
  print_points(family);
  for (const Method& method : kMethods) {
    const Plan plan = plan_for(model, method);
    fmt::print("\n{}, GiB ({:.2f} % trained)\n", method.title,
               100.0 * static_cast<double>(plan.trainable_parameters) / static_cast<double>(plan.parameters));
    for (const MemoryItem& item : plan.memory)
      if (item.bytes > 0) fmt::print("  {:<32}{:>9.2f}\n", item.name, gib(item.bytes));
    fmt::print("  {:<32}{:>9.2f}\n", "total", gib(plan.peak_bytes()));
  }
  fmt::print("\n{}\n\n", kAssumed);
  for (const std::string& source : family.sources) fmt::print("{}\n", source);
}

std::vector<const KnownModel*> all_models() {
  std::vector<const KnownModel*> models;
  for (const ModelFamily& family : known_families())
    for (const KnownModel& model : family.models) models.push_back(&model);
  return models;
}

const KnownModel& model_called(const std::string& name) {
  if (const KnownModel* model = find_known_model(name)) return *model;
  std::vector<std::string> names;
  for (const KnownModel* model : all_models()) names.push_back(model->name);
  const auto meant = nearest(name, names);
  throw Error{Fault::recipe,
              {},
              fmt::format("no model is known as \"{}\"", name),
              meant ? fmt::format("did you mean {}?", *meant)
                    : "`tune models` lists them; other Llama, Mistral and Mixtral models work as well"};
}

void show_one(const KnownModel& model, std::optional<std::int64_t> room, bool json) {
  json ? fmt::print("{}\n", json_of(model, room).dump(2)) : print_one(model);
  if (!room) return;
  const std::vector<std::string> methods = fitting_methods(model, *room);
  if (methods.empty())
    throw Error{Fault::memory,
                {},
                fmt::format("{:.2f} GiB are needed for QLoRA on {}, {:.2f} GiB are there",
                            gib(device_bytes(model, kQlora)), model.name, gib(*room)),
                "`tune models --fits` lists smaller ones"};
  tell("fits into {:.2f} GiB: {}\n", gib(*room), fmt::join(methods, ", "));
}

void show_all(std::optional<std::int64_t> room, bool json) {
  ordered_json list = ordered_json::array();
  std::size_t fitting = 0;
  for (const KnownModel* model : all_models()) {
    if (room && fitting_methods(*model, *room).empty()) continue;
    ++fitting;
    if (json) list.push_back(json_of(*model, room));
  }
  json ? fmt::print("{}\n", list.dump(2)) : print_table(room);
  if (room)
    tell("{} of {} models fit into {:.2f} GiB, by the method under fits\n", fitting, all_models().size(), gib(*room));
}

}  // namespace

int models_verb(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  std::vector<std::string> rest = arguments;
  std::string name;
  if (!rest.empty() && !rest[0].starts_with('-')) {
    name = rest[0];
    rest.erase(rest.begin());
  }
  po::options_description options("Options");
  options.add_options()("fits", po::value<std::string>(),
                        "only what fits into this much device memory, for example 24GiB, and by which method")(
      "json", "a JSON array on stdout, with NAME one object");
  po::variables_map values;
  if (!parse_arguments(rest, "models",
                       "The base models known by name, to choose from; tune models NAME shows one in full.",
                       "tune models --fits 24GiB", options, values))
    return 0;
  std::optional<std::int64_t> room;
  if (values.count("fits") != 0) room = parse_device_memory(values["fits"].as<std::string>(), "--fits");
  const bool json = values.count("json") != 0;
  name.empty() ? show_all(room, json) : show_one(model_called(name), room, json);
  return 0;
}

}  // namespace tune

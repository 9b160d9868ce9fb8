#include "recipes/schema/stages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "recipes/schema/fields.h"
#include "recipes/schema/lora_shape.h"
#include "recipes/schema/override.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/units.h"

namespace tune {
namespace {

constexpr std::string_view kStages = "stages";
constexpr std::size_t kMostStages = 32;  // each is a copy of what they share

// Under whichever of its names; null where it isn't given. section: "" for the recipe itself, "adapter." and so on.
YamlEntry* find(YamlValue& parent, const std::string& section, std::string_view name) {
  const auto found = std::find_if(parent.entries.begin(), parent.entries.end(),
                                  [&](const YamlEntry& entry) { return canonical_name(section, entry.name) == name; });
  return found == parent.entries.end() ? nullptr : &*found;
}

YamlEntry* find_in_section(YamlValue& document, const std::string& section, std::string_view name) {
  YamlEntry* entry = find(document, "", section);
  return entry == nullptr ? nullptr : find(entry->value, section + ".", name);
}

// The text of a single value, or what stands in its place where there is none.
std::string text_of(const YamlEntry* entry, std::string_view otherwise) {
  return entry != nullptr && entry->value.kind == YamlValue::Kind::scalar ? entry->value.text : std::string(otherwise);
}

void put(YamlValue& section, const std::string& path, const std::string& name, const std::string& text,
         const Place& place) {
  YamlEntry* entry = find(section, path, name);
  if (entry == nullptr) entry = &section.entries.emplace_back(YamlEntry{name, place, {}});
  entry->value = {.kind = YamlValue::Kind::scalar, .text = text, .quoted = true, .place = place};
}

void put_in_section(YamlValue& document, const std::string& section, const std::string& name, const std::string& text,
                    const Place& place) {
  YamlEntry* entry = find(document, "", section);
  if (entry == nullptr)
    entry = &document.entries.emplace_back(YamlEntry{section, place, {.kind = YamlValue::Kind::map, .place = place}});
  if (entry->value.kind == YamlValue::Kind::map) put(entry->value, section + ".", name, text, place);
}

void erase(YamlValue& section, const std::string& path, std::string_view name) {
  std::erase_if(section.entries, [&](const YamlEntry& entry) { return canonical_name(path, entry.name) == name; });
}

// Two names of one key in `own` stay two, for the reader to complain of.
void merge(YamlValue& shared, const YamlValue& own, const std::string& path) {
  std::set<std::string> merged;
  for (const YamlEntry& entry : own.entries) {
    const std::string name = canonical_name(path, entry.name);
    YamlEntry* there = merged.insert(name).second ? find(shared, path, name) : nullptr;
    if (there == nullptr) {
      shared.entries.push_back(entry);
    } else if (there->value.kind == YamlValue::Kind::map && entry.value.kind == YamlValue::Kind::map) {
      merge(there->value, entry.value, path + name + ".");
    } else {
      *there = entry;
    }
  }
}

// "stages[1].train.seed" is "train.seed" of the element 1.
struct OfElement {
  std::size_t element;
  Override change;
};
std::optional<OfElement> of_element(const Override& change) {
  const std::string begin = fmt::format("{}[", kStages);
  const std::size_t end = change.path.find("].");
  if (!change.path.starts_with(begin) || end == std::string::npos) return std::nullopt;
  const auto number = parse_whole_number(std::string_view(change.path).substr(begin.size(), end - begin.size()));
  if (!number || *number < 0) return std::nullopt;
  return OfElement{static_cast<std::size_t>(*number), {change.path.substr(end + 2), change.value}};
}

std::string first_name(const std::string& path) { return path.substr(0, path.find_first_of(".[")); }

// The changes that name `stages`; the others are made in each stage.
void change_list(YamlValue& document, const std::vector<Override>& overrides, Problems& problems) {
  for (const Override& change : overrides) {
    if (first_name(change.path) != kStages) continue;
    const std::optional<OfElement> inner = of_element(change);
    YamlEntry* list = find(document, "", kStages);
    if (!inner)
      apply_override(document, change, problems);
    else if (list != nullptr && inner->element < list->value.items.size())
      apply_override(list->value.items[inner->element], inner->change, problems);
    else
      problems.add({"--set"}, fmt::format("{} does not lead to a key", change.path),
                   list == nullptr ? "the recipe has no stages"
                                   : fmt::format("stages has {} elements", list->value.items.size()));
  }
}

void refuse_keys_of_the_list(YamlValue& stage, std::size_t number, Problems& problems) {
  const auto refuse = [&](const YamlEntry* entry, const std::string& name, const std::string& remedy) {
    if (entry != nullptr) problems.add(entry->place, fmt::format("{} is given in stage {}", name, number), remedy);
  };
  refuse(find(stage, "", kStages), "stages", "a stage has none of its own");
  refuse(find(stage, "", "output_dir"), "output_dir",
         "give it once, outside of stages: each stage has a folder of its own in it");
  if (number == 1) return;
  refuse(find_in_section(stage, "model", "base_model"), "base_model",
         "leave it out: a later stage goes on from what the one before has made");
  refuse(find_in_section(stage, "adapter", "init_adapter"), "init_adapter",
         "leave it out: a later stage goes on from what the one before has made");
}

std::string final_folder(YamlValue& document) { return text_of(find(document, "", "output_dir"), "") + "/final"; }

bool trains_adapter(YamlValue& document) { return text_of(find_in_section(document, "adapter", "type"), "") != "none"; }

// What training starts from, unless it is the first stage: all of it is known before anything has run.
void go_on_from(YamlValue& before, YamlValue& stage, YamlValue& own, std::size_t number, Problems& problems) {
  const Place& place = own.place;
  if (!trains_adapter(before)) {
    put_in_section(stage, "model", "base_model", final_folder(before), place);
    return;
  }
  if (!trains_adapter(stage)) {
    const YamlEntry* type = find_in_section(stage, "adapter", "type");
    problems.add(type->value.place,
                 fmt::format("stage {} trains all weights, but stage {} leaves an adapter", number, number - 1),
                 "write type: lora, or make two recipes: the first with export: [{format: hf}], the second with that "
                 "folder as base_model");
    return;
  }
  if (const YamlEntry* base = find_in_section(before, "model", "base_model"))
    put_in_section(stage, "model", "base_model", text_of(base, ""), base->value.place);
  put_in_section(stage, "adapter", "init_adapter", final_folder(before), place);
  for (const char* of_fresh_ones : {"init_lora_weights", "pissa_iter"})
    if (find_in_section(own, "adapter", of_fresh_ones) == nullptr)
      erase(find(stage, "", "adapter")->value, "adapter.", of_fresh_ones);
}

// What all share, the stage's own over it, the changes of both over these.
YamlValue merged(const YamlValue& shared, const YamlValue& own, std::size_t number, bool last,
                 const std::vector<Override>& overrides, Problems& problems) {
  YamlValue stage = shared;
  if (!last) erase(stage, "", "export");  // what the end of it all hands over
  merge(stage, own, "");
  for (const Override& change : overrides) {
    const std::string name = first_name(change.path);
    if (name != kStages && (last || canonical_name("", name) != "export")) apply_override(stage, change, problems);
  }
  Problems told_already;
  for (const Override& change : overrides)
    if (const auto inner = of_element(change); inner && inner->element + 1 == number)
      apply_override(stage, inner->change, told_already);
  const YamlEntry* given = find(stage, "", "output_dir");
  if (given != nullptr && (given->value.kind != YamlValue::Kind::scalar || given->value.text.empty())) return stage;
  std::string output = text_of(given, Recipe{}.output_dir);
  while (output.size() > 1 && output.ends_with('/')) output.pop_back();
  const std::string name = text_of(find(stage, "", "stage"), spelling(Recipe{}.stage));
  put(stage, "", "output_dir", fmt::format("{}/{}-{}", output, number, name), own.place);
  return stage;
}

double scale(const AdapterOptions& adapter) {
  return lora_scale(adapter.lora_alpha, adapter.lora_r, adapter.use_rslora);
}

}  // namespace

bool lists_stages(const YamlValue& document, const std::vector<Override>& overrides) {
  const auto given = [](const YamlEntry& entry) { return entry.name == kStages; };
  const auto changed = [](const Override& change) { return first_name(change.path) == kStages; };
  return std::any_of(document.entries.begin(), document.entries.end(), given) ||
         std::any_of(overrides.begin(), overrides.end(), changed);
}

std::vector<YamlValue> expand_stages(YamlValue document, const std::vector<Override>& overrides, Problems& problems) {
  change_list(document, overrides, problems);
  const YamlEntry* entry = find(document, "", kStages);
  if (entry == nullptr) return {};
  YamlValue list = entry->value;
  erase(document, "", kStages);
  if (list.kind != YamlValue::Kind::list || list.items.empty() || list.items.size() > kMostStages) {
    problems.add(
        list.place, fmt::format("stages is {}", describe(list)),
        fmt::format("it must be a list of 1 to {} sections: [{{stage: sft, …}}, {{stage: dpo, …}}]", kMostStages));
    return {};
  }
  std::vector<YamlValue> stages;
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    YamlValue& own = list.items[i];
    if (own.kind != YamlValue::Kind::map) {
      problems.add(own.place, fmt::format("stage {} is {}", i + 1, describe(own)),
                   "it must be a section with keys of the recipe");
      return {};
    }
    refuse_keys_of_the_list(own, i + 1, problems);
    stages.push_back(merged(document, own, i + 1, i + 1 == list.items.size(), overrides, problems));
    if (i > 0) go_on_from(stages[i - 1], stages[i], own, i + 1, problems);
  }
  return stages;
}

void check_stages(const std::vector<Recipe>& recipes, Problems& problems) {
  for (std::size_t i = 1; i < recipes.size(); ++i) {
    const Recipe &before = recipes[i - 1], &recipe = recipes[i];
    const auto same = [&](const std::string& key, bool is_same, const std::string& why) {
      if (!is_same)
        problems.add(recipe.place_of(key), fmt::format("stage {} has another {} than stage {}", i + 1, key, i),
                     fmt::format("leave it out there: {}", why));
    };
    const std::string ranks = "the ranks meet once, for all stages";
    same("distributed.shard_size", before.distributed.shard_size == recipe.distributed.shard_size, ranks);
    same("distributed.timeout_seconds", before.distributed.timeout_seconds == recipe.distributed.timeout_seconds,
         ranks);
    same("train.device", before.train.device == recipe.train.device, ranks);
    if (recipe.adapter.init_adapter.empty()) continue;
    const AdapterOptions &old = before.adapter, &now = recipe.adapter;
    const std::string goes_on = "its adapter goes on learning";
    same("adapter.lora_r", old.lora_r == now.lora_r, goes_on);
    same("adapter.lora_alpha", old.lora_r != now.lora_r || std::abs(scale(old) - scale(now)) <= 1e-9 * scale(old),
         goes_on);
    same("adapter.use_dora", old.use_dora == now.use_dora, goes_on);
    same("adapter.rank_pattern", old.rank_pattern == now.rank_pattern, goes_on);
    same("adapter.alpha_pattern", old.alpha_pattern == now.alpha_pattern, goes_on);
    same("adapter.lora_target_modules", old.lora_target_modules == now.lora_target_modules, goes_on);
    same("adapter.modules_to_save", old.modules_to_save == now.modules_to_save, goes_on);
    same("adapter.trainable_tokens", old.trainable_tokens == now.trainable_tokens, goes_on);
  }
}

void take_stored_ranks(std::vector<Recipe>& recipes) {
  bool pissa = false;
  for (std::size_t i = 1; i < recipes.size(); ++i) {
    AdapterOptions& adapter = recipes[i].adapter;
    pissa = !adapter.init_adapter.empty() && (pissa || recipes[i - 1].adapter.init_lora_weights == LoraInit::pissa);
    if (pissa) adapter = of_twice_the_rank(std::move(adapter));
  }
}

}  // namespace tune

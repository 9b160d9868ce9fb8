#include "recipes/schema/override.h"

#include <fmt/format.h>

#include <algorithm>

#include "recipes/schema/fields.h"
#include "recipes/schema/units.h"

namespace tune {
namespace {

const Place kPlace{"--set"};

struct Step {
  std::string name;         // of a key, or
  std::int64_t index = -1;  // of a list element
};

// "data.datasets[0].path" -> data, datasets, [0], path. Empty when it is no path.
std::vector<Step> split(std::string_view path) {
  std::vector<Step> steps;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find_first_of(".["), path.size());
    if (end == 0) return {};
    steps.push_back({std::string(path.substr(0, end))});
    path.remove_prefix(end);
    while (path.starts_with('[')) {
      const std::size_t close = path.find(']');
      const auto index = parse_whole_number(path.substr(1, close == std::string_view::npos ? 0 : close - 1));
      if (!index || *index < 0) return {};
      steps.push_back({"", *index});
      path.remove_prefix(close + 1);
    }
    if (path.empty()) return steps;
    if (path.front() != '.' || path.size() == 1) return {};
    path.remove_prefix(1);
  }
  return {};
}

// The value under a key, made where there is none; null where `parent` cannot have keys.
YamlValue* find_key(YamlValue& parent, const std::string& section_path, const std::string& name) {
  if (parent.kind == YamlValue::Kind::null) parent.kind = YamlValue::Kind::map;
  if (parent.kind != YamlValue::Kind::map) return nullptr;
  const std::string wanted = canonical_name(section_path, name);
  for (YamlEntry& entry : parent.entries)
    if (canonical_name(section_path, entry.name) == wanted) return &entry.value;
  return &parent.entries.emplace_back(YamlEntry{name, kPlace, {.place = kPlace}}).value;
}

YamlValue* find_item(YamlValue& parent, std::int64_t index) {
  if (parent.kind == YamlValue::Kind::null) parent.kind = YamlValue::Kind::list;
  const auto count = static_cast<std::int64_t>(parent.items.size());
  if (parent.kind != YamlValue::Kind::list || index > count) return nullptr;
  if (index == count) return &parent.items.emplace_back(YamlValue{.place = kPlace});
  return &parent.items[static_cast<std::size_t>(index)];
}

void forget_lines(YamlValue& value) {
  value.place = kPlace;
  for (YamlValue& item : value.items) forget_lines(item);
  for (YamlEntry& entry : value.entries) {
    entry.place = kPlace;
    forget_lines(entry.value);
  }
}

}  // namespace

void apply_override(YamlValue& document, const Override& change, Problems& problems) {
  const std::vector<Step> steps = split(change.path);
  if (steps.empty())
    return problems.add(kPlace, fmt::format("{} is no path of a key", in_quotes(change.path)),
                        "write it as train.learning_rate or data.datasets[0].path");

  Problems in_value;  // its lines are those of the argument, not of the file
  std::optional<YamlValue> value = parse_document(change.value, "--set", in_value);
  if (!value || in_value.count() > 0)
    return problems.add(kPlace, fmt::format("{} is no value for {}", in_quotes(change.value), change.path),
                        "write it as in a recipe, quoted where YAML asks for it");
  if (value->kind == YamlValue::Kind::null && change.value.empty())
    *value = {.kind = YamlValue::Kind::scalar, .quoted = true};  // --set data.cache_dir=
  forget_lines(*value);

  YamlValue* target = &document;
  std::string path;
  for (const Step& step : steps) {
    YamlValue* inner = step.index < 0 ? find_key(*target, path, step.name) : find_item(*target, step.index);
    if (step.index >= 0) path.pop_back();  // the dot
    if (inner == nullptr)
      return problems.add(kPlace, fmt::format("{} does not lead to a key", change.path),
                          step.index < 0 ? fmt::format("{} has no keys below it", path.substr(0, path.size() - 1))
                                         : fmt::format("{} has {} elements", path, target->items.size()));
    path += step.index < 0 ? canonical_name(path, step.name) + "." : fmt::format("[{}].", step.index);
    target = inner;
  }
  *target = std::move(*value);
}

}  // namespace tune

#include "recipes/schema/values.h"

#include <algorithm>

#include "recipes/schema/advice.h"
#include "recipes/schema/suggest.h"
#include "recipes/schema/units.h"

namespace tune {
namespace {

bool is_plain_number(const YamlValue& value) { return value.kind == YamlValue::Kind::scalar && !value.quoted; }

template <class Number>
void read_number(Number& target, const YamlValue& value, const Key& key, bool whole, std::optional<Number> number,
                 Reading& reading) {
  if (is_plain_number(value) && number && is_in_range(static_cast<double>(*number), key.rule)) {
    target = *number;
    return;
  }
  if (value.kind == YamlValue::Kind::scalar && value.quoted && number)
    return reading.problems.add(value.place,
                                fmt::format("{} is the text {}", label(key.path, value.place), in_quotes(value.text)),
                                "write the number without quotes");
  refuse(value, key, expects_number(key.rule, whole), reading);
}

// The last name of every key, with its path: for keys that stand in the wrong section.
std::string path_elsewhere(const std::string& name) {
  for (const FieldDoc& doc : field_docs()) {
    const std::string last = doc.path.substr(doc.path.rfind('.') + 1);
    if (last == name || std::find(doc.aliases.begin(), doc.aliases.end(), name) != doc.aliases.end()) return doc.path;
  }
  return "";
}

std::string in_path_spelling(std::string text) {
  for (std::size_t i = text.find("${"); i != std::string::npos; i = text.find("${", i + 3)) text.insert(i, 1, '$');
  return text;
}

}  // namespace

std::string label(const std::string& path, const Place& place) {
  return place.line > 0 ? path.substr(path.rfind('.') + 1) : path;
}

void refuse(const YamlValue& value, const Key& key, const std::string& expected, Reading& reading) {
  const std::string name = label(key.path, value.place);
  if (value.kind == YamlValue::Kind::null)
    return reading.problems.add(value.place, name + " has no value", "give one or leave the key out");
  const bool is_number = is_plain_number(value) && parse_number(value.text);
  reading.problems.add(value.place, fmt::format("{} is {}", name, is_number ? value.text : describe(value)),
                       expected.empty() ? "it must be one word" : "it must be " + expected);
}

void refuse_choice(const YamlValue& value, const Key& key, const std::vector<std::string>& choices, Reading& reading) {
  std::string remedy(advice_for_value(without_positions(key.path), value.text));
  if (remedy == kPlanned) {
    remedy += fmt::format("; it may be {} now", one_of(choices));
  } else if (remedy.empty()) {
    const auto meant = nearest(value.text, choices);
    remedy = (meant ? fmt::format("did you mean {}? ", *meant) : "") + "It may be " + one_of(choices);
    if (!meant) remedy[0] = 'i';
  }
  reading.problems.add(value.place, fmt::format("{} is {}", label(key.path, value.place), in_quotes(value.text)),
                       remedy);
}

void refuse_unknown_key(const YamlEntry& entry, const std::string& section_path, const std::vector<std::string>& known,
                        Reading& reading) {
  const bool has_line = entry.place.line > 0;
  const std::string what = fmt::format("unknown key {}", in_quotes(has_line ? entry.name : section_path + entry.name));
  if (const std::string_view advice = advice_for_key(entry.name); !advice.empty())
    return reading.problems.add(entry.place, what, std::string(advice));
  if (const std::string elsewhere = path_elsewhere(entry.name); !elsewhere.empty())
    return reading.problems.add(entry.place, what, fmt::format("did you mean {}?", in_quotes(elsewhere)));
  if (const auto meant = nearest(entry.name, known)) {
    const std::string name = canonical_name(section_path, *meant);
    return reading.problems.add(entry.place, what,
                                fmt::format("did you mean {}?", in_quotes(has_line ? name : section_path + name)));
  }
  std::vector<std::string> names;  // without the aliases, which come behind
  for (const std::string& name : known)
    if (canonical_name(section_path, name) == name) names.push_back(name);
  reading.problems.add(entry.place, what, fmt::format("known here: {}", fmt::join(names, ", ")));
}

void note_alias(std::string_view alias, std::string_view name, Reading& reading) {
  const std::string note = fmt::format("{} is called {} here", alias, name);
  if (std::find(reading.notes.begin(), reading.notes.end(), note) == reading.notes.end()) reading.notes.push_back(note);
}

void refuse_second_name(const YamlEntry& entry, std::string_view name, Reading& reading) {
  reading.problems.add(
      entry.place, fmt::format("{} is given under two names", name),
      fmt::format("{} is another name for {}, keep the latter", entry.name == name ? "the other" : entry.name, name));
}

void refuse_absent(const Place& place, const Key& key, Reading& reading) {
  reading.problems.add(place, fmt::format("{} is missing", label(key.path, place)), "give it a value");
}

std::string expects_text(const Rule& rule) {
  if (!rule.choices.empty()) return one_of(rule.choices);
  return rule.is_path ? "a path" : "text";
}

std::string expects_number(const Rule& rule, bool whole) {
  const std::string kind = whole ? "a whole number" : "a number";
  const bool has_max = rule.max < std::numeric_limits<double>::infinity();
  if (rule.above_min)
    return has_max ? fmt::format("{}, above {} up to {}", kind, rule.min, rule.max)
                   : fmt::format("{} above {}", kind, rule.min);
  return fmt::format("{}, {} to {}{}", kind, rule.min, rule.below_max ? "below " : "", rule.max);
}

bool is_in_range(double number, const Rule& rule) {
  return (rule.above_min ? number > rule.min : number >= rule.min) &&
         (rule.below_max ? number < rule.max : number <= rule.max);
}

std::string yaml_text(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      result += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20)
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else
      result += c;
  }
  return result + '"';
}

void read_value(bool& target, const YamlValue& value, const Key& key, Reading& reading) {
  if (is_plain_number(value) && (value.text == "true" || value.text == "false"))
    target = value.text == "true";
  else
    refuse(value, key, "true or false", reading);
}

void read_value(std::int64_t& target, const YamlValue& value, const Key& key, Reading& reading) {
  read_number(target, value, key, true, parse_whole_number(value.text), reading);
}

void read_value(double& target, const YamlValue& value, const Key& key, Reading& reading) {
  read_number(target, value, key, false, parse_number(value.text), reading);
}

void read_value(std::string& target, const YamlValue& value, const Key& key, Reading& reading) {
  if (value.kind != YamlValue::Kind::scalar) return refuse(value, key, expects_text(key.rule), reading);
  if (key.rule.not_empty && value.text.empty())
    return reading.problems.add(value.place, label(key.path, value.place) + " is empty", "give it a value");
  const auto& choices = key.rule.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), value.text) == choices.end())
    return refuse_choice(value, key, choices, reading);
  target = value.text;
  if (!key.rule.is_path) return;
  const Expanded expanded = expand_environment(value.text);
  if (!expanded.problem.empty())
    return reading.problems.add(value.place, label(key.path, value.place) + ": " + expanded.problem, expanded.remedy);
  target = expanded.text;
}

void read_value(std::vector<std::string>& target, const YamlValue& value, const Key& key, Reading& reading) {
  if (value.kind == YamlValue::Kind::map) return refuse(value, key, "a list of " + expects_text(key.rule), reading);
  const bool single = value.kind == YamlValue::Kind::scalar;  // lora_target_modules: all-linear
  std::vector<std::string> words;
  for (const YamlValue& item : single ? std::vector{value} : value.items)
    read_value(words.emplace_back(), item, key, reading);
  target = std::move(words);
}

namespace {

template <class Number>
void read_numbers(std::map<std::string, Number>& target, const YamlValue& value, const Key& key, Reading& reading) {
  if (value.kind != YamlValue::Kind::map) return refuse(value, key, "name: number pairs, {down_proj: 8}", reading);
  for (const YamlEntry& entry : value.entries) {
    const Key number{key.path + "." + entry.name, key.rule};
    read_value(target[entry.name], entry.value, number, reading);
    reading.places[number.path] = entry.value.place;
  }
}

template <class Value, class Text>
std::string write_pairs(const std::map<std::string, Value>& values, Text&& text) {
  std::vector<std::string> pairs;
  for (const auto& [name, value] : values) pairs.push_back(fmt::format("{}: {}", yaml_text(name), text(value)));
  return fmt::format(" {{{}}}\n", fmt::join(pairs, ", "));
}

}  // namespace

void read_value(std::map<std::string, std::int64_t>& target, const YamlValue& value, const Key& key, Reading& reading) {
  read_numbers(target, value, key, reading);
}

void read_value(std::map<std::string, double>& target, const YamlValue& value, const Key& key, Reading& reading) {
  read_numbers(target, value, key, reading);
}

void read_value(std::map<std::string, std::string>& target, const YamlValue& value, const Key& key, Reading& reading) {
  if (value.kind != YamlValue::Kind::map) return refuse(value, key, "name: name pairs, {prompt: question}", reading);
  for (const YamlEntry& entry : value.entries) {
    const Rule word;
    read_value(target[entry.name], entry.value, Key{key.path + "." + entry.name, word}, reading);
    reading.places[key.path + "." + entry.name] = entry.value.place;
  }
}

std::string write_value(bool value, const Rule&, int) { return fmt::format(" {}\n", value); }
std::string write_value(std::int64_t value, const Rule&, int) { return fmt::format(" {}\n", value); }
std::string write_value(double value, const Rule&, int) { return fmt::format(" {}\n", value); }

std::string write_value(const std::string& value, const Rule& rule, int) {
  return fmt::format(" {}\n", rule.choices.empty() ? yaml_text(rule.is_path ? in_path_spelling(value) : value) : value);
}

std::string write_value(const std::vector<std::string>& value, const Rule&, int) {
  std::vector<std::string> words;
  for (const std::string& word : value) words.push_back(yaml_text(word));
  return fmt::format(" [{}]\n", fmt::join(words, ", "));
}

std::string write_value(const std::map<std::string, std::string>& value, const Rule&, int) {
  return write_pairs(value, yaml_text);
}

std::string write_value(const std::map<std::string, std::int64_t>& value, const Rule&, int) {
  return write_pairs(value, [](std::int64_t number) { return number; });
}

std::string write_value(const std::map<std::string, double>& value, const Rule&, int) {
  return write_pairs(value, [](double number) { return number; });
}

}  // namespace tune

#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "recipes/schema/row.h"
#include "recipes/schema/spelling.h"

namespace tune {

// How each type of a member is read from YAML, written to YAML and described. Only fields.cpp includes this.

// What the messages call a key: its last name where the place shows the rest, the whole path where it does not.
std::string label(const std::string& path, const Place& place);
// Adds 'x is …; it must be …'.
void refuse(const YamlValue& value, const Key& key, const std::string& expected, Reading& reading);
// A word that is not among those allowed: advice where there is some, else 'did you mean'.
void refuse_choice(const YamlValue& value, const Key& key, const std::vector<std::string>& choices, Reading& reading);
void refuse_unknown_key(const YamlEntry& entry, const std::string& section_path, const std::vector<std::string>& known,
                        Reading& reading);

std::string expects_text(const Rule& rule);
std::string expects_number(const Rule& rule, bool whole);
bool is_in_range(double number, const Rule& rule);
std::string yaml_text(const std::string& text);

void read_value(bool& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::int64_t& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(double& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::string& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::vector<std::string>& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::map<std::string, std::string>& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::map<std::string, std::int64_t>& target, const YamlValue& value, const Key& key, Reading& reading);
void read_value(std::map<std::string, double>& target, const YamlValue& value, const Key& key, Reading& reading);

std::string write_value(bool value, const Rule&, int indent);
std::string write_value(std::int64_t value, const Rule&, int indent);
std::string write_value(double value, const Rule&, int indent);
std::string write_value(const std::string& value, const Rule&, int indent);
std::string write_value(const std::vector<std::string>& value, const Rule&, int indent);
std::string write_value(const std::map<std::string, std::string>& value, const Rule&, int indent);
std::string write_value(const std::map<std::string, std::int64_t>& value, const Rule&, int indent);
std::string write_value(const std::map<std::string, double>& value, const Rule&, int indent);

template <class T>
struct ListOf : std::false_type {};
template <class T>
struct ListOf<std::vector<T>> : std::bool_constant<std::is_class_v<T> && !std::is_same_v<T, std::string>> {};
template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};
template <class T>
struct IsMap : std::false_type {};
template <class T>
struct IsMap<std::map<std::string, T>> : std::true_type {};
template <class T>
constexpr bool is_section = std::is_class_v<T> && !std::is_same_v<T, std::string> && !IsOptional<T>::value &&
                            !std::is_same_v<T, std::vector<std::string>> && !ListOf<T>::value && !IsMap<T>::value;

template <class Enum>
std::vector<std::string> choices_of() {
  std::vector<std::string> names;
  for (const auto& [value, name] : Spelling<Enum>::values) names.emplace_back(name);
  return names;
}

// ---- sections

template <class Section>
const Row<Section>* find_row(std::string_view name) {
  for (const Row<Section>& row : rows<Section>()) {
    if (row.name == name) return &row;
    for (const std::string_view alias : row.aliases)
      if (alias == name) return &row;
  }
  return nullptr;
}

template <class Section>
std::vector<std::string> known_names() {
  std::vector<std::string> names;
  for (const Row<Section>& row : rows<Section>()) names.emplace_back(row.name);
  for (const Row<Section>& row : rows<Section>()) names.insert(names.end(), row.aliases.begin(), row.aliases.end());
  return names;
}

void note_alias(std::string_view alias, std::string_view name, Reading& reading);
void refuse_second_name(const YamlEntry& entry, std::string_view name, Reading& reading);

/// path: "" for the recipe itself, else with a dot at its end.
template <class Section>
void read_section(Section& section, const std::vector<YamlEntry>& entries, const Place& place, const std::string& path,
                  Reading& reading) {
  for (const YamlEntry& entry : entries) {
    const Row<Section>* row = find_row<Section>(entry.name);
    if (row == nullptr) {
      refuse_unknown_key(entry, path, known_names<Section>(), reading);
      continue;
    }
    const std::string full_path = path + std::string(row->name);
    if (entry.name != row->name) note_alias(entry.name, row->name, reading);
    if (!reading.places.try_emplace(full_path, entry.value.place).second)
      refuse_second_name(entry, row->name, reading);
    else
      row->member.read(section, entry.value, Key{full_path, row->rule}, reading);
  }
  for (const Row<Section>& row : rows<Section>()) {
    const std::string full_path = path + std::string(row.name);
    if (!reading.has(full_path)) row.member.read_absent(section, place, Key{full_path, row.rule}, reading);
  }
}

template <class Section>
std::string write_section(const Section& section, int indent, const std::string& first_margin) {
  std::string text;
  for (const Row<Section>& row : rows<Section>()) {
    const std::string value = row.member.write(section, row.rule, indent);
    if (value.empty()) continue;
    text += fmt::format("{}{}:{}", text.empty() ? first_margin : std::string(indent, ' '), row.name, value);
  }
  return text;
}

// ---- by type

template <class T>
void read_any(T& target, const YamlValue& value, const Key& key, Reading& reading) {
  if constexpr (std::is_enum_v<T>) {
    if (value.kind != YamlValue::Kind::scalar) return refuse(value, key, "", reading);
    for (const auto& [known, name] : Spelling<T>::values)
      if (value.text == name) return void(target = known);
    refuse_choice(value, key, choices_of<T>(), reading);
  } else if constexpr (IsOptional<T>::value) {
    target.emplace();
    const std::size_t before = reading.problems.count();
    read_any(*target, value, key, reading);
    if (reading.problems.count() > before) target.reset();  // no rule about a value that nobody wrote
  } else if constexpr (is_section<T>) {
    if (value.kind != YamlValue::Kind::map) return refuse(value, key, "a section with keys of its own", reading);
    read_section(target, value.entries, value.place, key.path + ".", reading);
  } else if constexpr (ListOf<T>::value) {
    if (value.kind != YamlValue::Kind::list) return refuse(value, key, "a list: [{…}, {…}]", reading);
    if (key.rule.not_empty && value.items.empty())
      return refuse(value, key, "a list with at least one element", reading);
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      const Key item{fmt::format("{}[{}]", key.path, i), key.rule};
      reading.places[item.path] = value.items[i].place;
      read_any(target.emplace_back(), value.items[i], item, reading);
    }
  } else {
    read_value(target, value, key, reading);
  }
}

template <class T>
std::string write_any(const T& value, const Rule& rule, int indent) {
  if constexpr (std::is_enum_v<T>) {
    return fmt::format(" {}\n", spelling(value));
  } else if constexpr (IsOptional<T>::value) {
    return value ? write_any(*value, rule, indent) : std::string();
  } else if constexpr (is_section<T>) {
    return "\n" + write_section(value, indent + 2, std::string(indent + 2, ' '));
  } else if constexpr (ListOf<T>::value) {
    if (value.empty()) return " []\n";
    std::string text = "\n";
    for (const auto& item : value) text += write_section(item, indent + 4, std::string(indent + 2, ' ') + "- ");
    return text;
  } else {
    return write_value(value, rule, indent);
  }
}

template <class T>
std::string expects_any(const Rule& rule) {
  if constexpr (std::is_enum_v<T>)
    return fmt::format("{}", fmt::join(choices_of<T>(), ", "));
  else if constexpr (IsOptional<T>::value)
    return expects_any<typename T::value_type>(rule);
  else if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_arithmetic_v<T>)
    return expects_number(rule, std::is_integral_v<T>);
  else if constexpr (std::is_same_v<T, std::vector<std::string>>)
    return "a list of " + expects_text(rule);
  else if constexpr (std::is_same_v<T, std::string>)
    return expects_text(rule);
  else if constexpr (std::is_same_v<T, std::map<std::string, std::string>>)
    return "name: name pairs";
  else if constexpr (std::is_same_v<T, std::map<std::string, std::int64_t>>)
    return "name: number pairs; " + expects_number(rule, true);
  else if constexpr (std::is_same_v<T, std::map<std::string, double>>)
    return "name: number pairs; " + expects_number(rule, false);
  else
    return "";
}

template <class Section>
void list_fields(const std::string& path, std::vector<FieldDoc>& docs) {
  for (const Row<Section>& row : rows<Section>()) {
    const std::string full_path = path + std::string(row.name);
    const std::size_t before = docs.size();
    row.member.list_inner(full_path, docs);
    if (docs.size() > before) continue;  // a section: its keys speak for it
    std::string standard = row.rule.required ? "" : row.member.write(Section{}, row.rule, 0);
    standard = standard.empty() ? "" : standard.substr(1, standard.size() - 2);  // " value\n"
    docs.push_back({full_path,
                    row.member.expects(row.rule),
                    standard,
                    {row.aliases.begin(), row.aliases.end()},
                    std::string(row.help)});
  }
}

void refuse_absent(const Place& place, const Key& key, Reading& reading);

template <class Section>
template <class T>
Member<Section>::Member(T Section::*member)
    : read([member](Section& section, const YamlValue& value, const Key& key, Reading& reading) {
        if (value.kind == YamlValue::Kind::null) return refuse(value, key, "", reading);
        read_any(section.*member, value, key, reading);
      }),
      write([member](const Section& section, const Rule& rule, int indent) {
        return write_any(section.*member, rule, indent);
      }),
      expects([](const Rule& rule) { return expects_any<T>(rule); }),
      list_inner([]([[maybe_unused]] const std::string& path, [[maybe_unused]] std::vector<FieldDoc>& docs) {
        if constexpr (is_section<T>)
          list_fields<T>(path + ".", docs);
        else if constexpr (ListOf<T>::value)
          list_fields<typename T::value_type>(path + "[].", docs);
      }),
      read_absent([member](Section& section, const Place& place, const Key& key, Reading& reading) {
        if (key.rule.required) return refuse_absent(place, key, reading);
        if constexpr (is_section<T>)
          read_section(section.*member, {}, {place.file}, key.path + ".", reading);
        else
          (void)section, (void)member;
      }) {}

}  // namespace tune

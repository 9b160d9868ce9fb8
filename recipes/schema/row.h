#pragma once
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/schema/fields.h"

namespace tune {

/// What a value must be, beyond the type of its member.
struct Rule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;                 // min itself is out
  bool below_max = false;                 // max itself is out
  bool is_path = false;                   // ${NAME} is expanded
  bool required = false;                  // must be given
  bool not_empty = false;                 // text or list
  std::vector<std::string> choices = {};  // for text; empty = any
};

/// A key while it is read: its full path, for messages and places, and its rule.
struct Key {
  std::string path;
  const Rule& rule;
};

/// A member of a section with its type erased: reading, writing and describing come from that type (values.h).
template <class Section>
struct Member {
  template <class T>
  Member(T Section::*member);  // implicit: a row is written as {"lora_r", &AdapterOptions::lora_r, …}

  std::function<void(Section&, const YamlValue&, const Key&, Reading&)> read;
  std::function<std::string(const Section&, const Rule&, int indent)> write;  // empty = leave the key out
  std::function<std::string(const Rule&)> expects;
  std::function<void(const std::string& path, std::vector<FieldDoc>&)> list_inner;  // keys below, of sections
  std::function<void(Section&, const Place&, const Key&, Reading&)> read_absent;    // finds what is required below
};

/// One key: everything the project knows about it stands in its row.
template <class Section>
struct Row {
  std::string_view name;
  Member<Section> member;
  Rule rule;
  std::vector<std::string_view> aliases;
  std::string_view help;
};

/// The rows of a section, in the order of the documentation; defined in fields.cpp.
template <class Section>
const std::vector<Row<Section>>& rows();

}  // namespace tune

#pragma once
#include <string>
#include <vector>

#include "data/sources/source.h"

namespace tune {

inline std::vector<Record> read(const DatasetOptions& options, Part part = Part::training) {
  RowLog log;
  const auto source = open_source(options, part, log);
  std::vector<Record> records;
  for (Record record; source->next(record); record = {}) records.push_back(record);
  log.raise();
  return records;
}

inline std::vector<std::string> texts(const DatasetOptions& options, Part part = Part::training) {
  std::vector<std::string> texts;
  for (const Record& record : read(options, part)) texts.push_back(record.text);
  return texts;
}

/// "user: Hi | assistant: Ho"
inline std::string told(const Record& record) {
  std::string text;
  for (const Message& message : record.messages)
    text += (text.empty() ? "" : " | ") + message.role + ": " + message.content;
  return text;
}

inline DatasetOptions text_options(const std::string& path) { return {.path = path, .type = DatasetType::text}; }

}  // namespace tune

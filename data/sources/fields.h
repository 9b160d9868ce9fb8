#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/sources/record.h"
#include "data/sources/row_log.h"
#include "recipes/schema/recipe.h"

namespace tune {

struct Field;

/// One row as the file has it, before anybody asks what it means.
using Fields = std::vector<Field>;

enum class FieldKind { text, list, nothing, other };  // other: a number, a boolean, an object

struct Field {
  std::string name;
  FieldKind kind = FieldKind::nothing;
  std::string text;
  std::vector<Fields> items;  // of a list; an element that is no object has no fields
};

/// Reads the rows of one file format, in the file's order.
class FieldReader {
 public:
  virtual ~FieldReader() = default;

  /// False at the end. Rows that can't be read are refused in the log and passed over; Error{Fault::data} when the
  /// file itself can't be read on.
  virtual bool next(Fields& fields, Place& place) = 0;
};

// One a file of this folder. The log must outlive the reader.
std::unique_ptr<FieldReader> open_jsonl(const std::string& path, RowLog& log);
std::unique_ptr<FieldReader> open_json(const std::string& path, RowLog& log);  // one array of objects, or as .jsonl
std::unique_ptr<FieldReader> open_csv(const std::string& path, RowLog& log);
std::unique_ptr<FieldReader> open_parquet(const std::string& path, RowLog& log);
std::unique_ptr<FieldReader> open_text(const std::string& path, RowLog& log);  // the file is one row {text}

/// What the row means under the data set's type, names and roles. Error{Fault::data} without a place for a missing or
/// mistyped field, an unknown role, a conversation without an answer, an empty answer.
Record make_record(Fields fields, const DatasetOptions& options);

/// Error{Fault::recipe} for names in options.field_names that the type doesn't have.
void check_field_names(const DatasetOptions& options);

}  // namespace tune

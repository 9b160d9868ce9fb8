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

enum class FieldKind { text, list, boolean, nothing, other };  // other: a number, an object

struct Field {
  std::string name;
  FieldKind kind = FieldKind::nothing;
  std::string text;                 // of a boolean: "true" or "false"
  std::vector<Fields> items;        // of a list; an element that is no object has no fields
  TextPart part = TextPart::whole;  // of the text; the next row goes on with what is not the last
};

/// Reads the rows of one file format, in the file's order.
class FieldReader {
 public:
  virtual ~FieldReader() = default;

  /// False at the end. Rows that can't be read are refused in the log and passed over; Error{Fault::data} when the
  /// file itself can't be read on.
  virtual bool next(Fields& fields, Place& place) = 0;
};

// One a file of this folder; they read options.path. The log must outlive the reader.
std::unique_ptr<FieldReader> open_jsonl(const DatasetOptions& options, RowLog& log);
std::unique_ptr<FieldReader> open_json(const DatasetOptions& options,
                                       RowLog& log);  // an array of objects, or as .jsonl
std::unique_ptr<FieldReader> open_csv(const DatasetOptions& options, RowLog& log);
std::unique_ptr<FieldReader> open_parquet(const DatasetOptions& options, RowLog& log);
std::unique_ptr<FieldReader> open_text(const DatasetOptions& options, RowLog& log);  // the file is one row {text}

/// The fields of a row, by their names in the file, that make_record looks at.
std::vector<std::string> wanted_fields(const DatasetOptions& options);

/// What the row means under the data set's type, names and roles. Error{Fault::data} without a place for a missing or
/// mistyped field, an unknown role, a conversation without an answer, an empty answer.
Record make_record(Fields fields, const DatasetOptions& options);

}  // namespace tune

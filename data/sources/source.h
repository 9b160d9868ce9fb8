#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "data/sources/record.h"
#include "data/sources/row_log.h"
#include "recipes/schema/recipe.h"

namespace tune {

/// The rows of one data set, in the file's order.
class Source {
 public:
  virtual ~Source() = default;

  /// False at the end. Bad rows are refused in the log and passed over. Error{Fault::data} when the file can't be read
  /// on.
  virtual bool next(Record& record) = 0;
};

/// Which rows of a file with holdout_every: k are wanted. Counted are all rows that could be read at all, from 0.
enum class Part { training, evaluation };

/// The log must outlive the source. Error{Fault::data} when the file is missing or of a kind not known.
std::unique_ptr<Source> open_source(const DatasetOptions& options, Part part, RowLog& log);

/// Error{Fault::data} when there is no such file.
void check_exists(const std::string& path);

/// The format by which the file is read: ".jsonl" for "rows.jsonl.gz".
std::string format_of(const std::string& path);

}  // namespace tune

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>

#include <algorithm>
#include <numeric>
#include <optional>

#include "data/sources/fields.h"
#include "data/sources/lines.h"

namespace tune {

namespace {

[[noreturn]] void throw_damaged(const std::string& path, const arrow::Status& status) {
  throw Error{Fault::data,
              {path},
              fmt::format("can't be read as Parquet: {}", status.message()),
              "fetch or write the file again"};
}

template <class T>
T checked(arrow::Result<T> result, const std::string& path) {
  if (!result.ok()) throw_damaged(path, result.status());
  return std::move(result).ValueUnsafe();
}

Fields fields_of(const arrow::StructArray& rows, std::int64_t row, bool with_lists);

template <class ListArray>
std::vector<Fields> items_of(const arrow::Array& array, std::int64_t row) {
  const auto& list = static_cast<const ListArray&>(array);
  std::vector<Fields> items;
  const std::int64_t begin = list.value_offset(row), end = begin + list.value_length(row);
  for (std::int64_t i = begin; i < end; ++i) {
    const bool is_object = list.values()->type_id() == arrow::Type::STRUCT && !list.values()->IsNull(i);
    items.push_back(is_object ? fields_of(static_cast<const arrow::StructArray&>(*list.values()), i, false) : Fields{});
  }
  return items;
}

// Text may lie in a column of bytes: older writers don't say that it is text.
std::optional<std::string> text_of(const arrow::Array& array, std::int64_t row) {
  switch (array.type_id()) {
    case arrow::Type::STRING:
    case arrow::Type::BINARY:
      return static_cast<const arrow::BinaryArray&>(array).GetString(row);
    case arrow::Type::LARGE_STRING:
    case arrow::Type::LARGE_BINARY:
      return static_cast<const arrow::LargeBinaryArray&>(array).GetString(row);
    case arrow::Type::STRING_VIEW:
    case arrow::Type::BINARY_VIEW:
      return static_cast<const arrow::BinaryViewArray&>(array).GetString(row);
    default:
      return std::nullopt;
  }
}

std::optional<std::vector<Fields>> list_of(const arrow::Array& array, std::int64_t row) {
  switch (array.type_id()) {
    case arrow::Type::LIST:
      return items_of<arrow::ListArray>(array, row);
    case arrow::Type::LARGE_LIST:
      return items_of<arrow::LargeListArray>(array, row);
    case arrow::Type::FIXED_SIZE_LIST:
      return items_of<arrow::FixedSizeListArray>(array, row);
    case arrow::Type::LIST_VIEW:
      return items_of<arrow::ListViewArray>(array, row);
    case arrow::Type::LARGE_LIST_VIEW:
      return items_of<arrow::LargeListViewArray>(array, row);
    default:
      return std::nullopt;
  }
}

Field field_of(const std::string& name, const arrow::Array& array, std::int64_t row, bool with_lists) {
  if (array.IsNull(row)) return {name, FieldKind::nothing, {}, {}};
  if (array.type_id() == arrow::Type::DICTIONARY) {
    const auto& dictionary = static_cast<const arrow::DictionaryArray&>(array);
    return field_of(name, *dictionary.dictionary(), dictionary.GetValueIndex(row), with_lists);
  }
  if (auto text = text_of(array, row)) {
    if (const std::size_t bad = find_invalid_utf8(*text); bad != std::string_view::npos)
      throw Error{Fault::data, Place{}, fmt::format("\"{}\" holds invalid UTF-8 (byte {})", name, bad),
                  "convert the text to UTF-8"};
    return {name, FieldKind::text, std::move(*text), {}};
  }
  if (array.type_id() == arrow::Type::BOOL)
    return {name, FieldKind::boolean, static_cast<const arrow::BooleanArray&>(array).Value(row) ? "true" : "false", {}};
  if (auto items = with_lists ? list_of(array, row) : std::nullopt)
    return {name, FieldKind::list, {}, std::move(*items)};
  return {name, FieldKind::other, {}, {}};
}

Fields fields_of(const arrow::StructArray& rows, std::int64_t row, bool with_lists) {
  Fields fields;
  for (int i = 0; i < rows.num_fields(); ++i)
    fields.push_back(field_of(rows.struct_type()->field(i)->name(), *rows.field(i), row, with_lists));
  return fields;
}

// Page by page, and nothing ahead of its time: by default Arrow fetches whole row groups of the whole file.
std::unique_ptr<parquet::arrow::FileReader> open_file(const std::string& path) {
  constexpr std::int64_t kRowsAtOnce = 128;
  parquet::ReaderProperties pages;
  pages.enable_buffered_stream();
  parquet::ArrowReaderProperties rows;
  rows.set_pre_buffer(false);
  rows.set_batch_size(kRowsAtOnce);
  parquet::arrow::FileReaderBuilder builder;
  const auto file = checked(arrow::io::ReadableFile::Open(path), path);
  if (const arrow::Status opened = builder.Open(file, pages); !opened.ok()) throw_damaged(path, opened);
  return checked(builder.properties(rows)->Build(), path);
}

// Rows are numbered from 1 where other formats have lines. Of columns that nobody wants only the names are read.
class Parquet final : public FieldReader {
 public:
  Parquet(const DatasetOptions& options, RowLog& log)
      : path_(options.path), log_(log), reader_(open_file(options.path)) {
    const std::vector<std::string> wanted = wanted_fields(options);
    const auto& columns = reader_->manifest().schema_fields;
    std::vector<int> leaves;
    for (const auto& column : columns) {
      if (std::find(wanted.begin(), wanted.end(), column.field->name()) != wanted.end())
        add_leaves(column, leaves);
      else
        unread_.push_back({column.field->name(), FieldKind::other, {}, {}});
    }
    batches_ = checked(reader_->GetRecordBatchReader(row_groups(), leaves), path_);
  }

  bool next(Fields& fields, Place& place) override {
    for (;;) {
      if (rows_ == nullptr || next_in_batch_ == rows_->length()) {
        if (!next_batch()) return false;
        continue;
      }
      place = {path_, ++number_};
      try {
        fields = fields_of(*rows_, next_in_batch_++, true);
        fields.insert(fields.end(), unread_.begin(), unread_.end());
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
      }
    }
  }

 private:
  static void add_leaves(const parquet::arrow::SchemaField& column, std::vector<int>& leaves) {
    if (column.is_leaf()) leaves.push_back(column.column_index);
    for (const auto& child : column.children) add_leaves(child, leaves);
  }

  std::vector<int> row_groups() const {
    std::vector<int> all(static_cast<std::size_t>(reader_->num_row_groups()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  bool next_batch() {
    std::shared_ptr<arrow::RecordBatch> batch;
    const arrow::Status status = batches_->ReadNext(&batch);
    if (!status.ok()) throw_damaged(path_, status);
    if (batch == nullptr) return false;
    if (const arrow::Status valid = batch->Validate(); !valid.ok()) throw_damaged(path_, valid);
    rows_ = checked(batch->ToStructArray(), path_);
    next_in_batch_ = 0;
    return true;
  }

  std::string path_;
  RowLog& log_;
  std::unique_ptr<parquet::arrow::FileReader> reader_;
  std::shared_ptr<arrow::RecordBatchReader> batches_;
  Fields unread_;
  std::shared_ptr<arrow::StructArray> rows_;
  std::int64_t next_in_batch_ = 0;
  std::int64_t number_ = 0;
};

}  // namespace

std::unique_ptr<FieldReader> open_parquet(const DatasetOptions& options, RowLog& log) {
  return std::make_unique<Parquet>(options, log);
}

}  // namespace tune

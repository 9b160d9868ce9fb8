#include <arrow/api.h>
#include <arrow/io/file.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>

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
  for (std::int64_t i = list.value_offset(row); i < list.value_offset(row + 1); ++i) {
    const bool is_object = list.values()->type_id() == arrow::Type::STRUCT && !list.values()->IsNull(i);
    items.push_back(is_object ? fields_of(static_cast<const arrow::StructArray&>(*list.values()), i, false) : Fields{});
  }
  return items;
}

Field field_of(const std::string& name, const arrow::Array& array, std::int64_t row, bool with_lists) {
  Field field{name, FieldKind::other, {}, {}};
  if (array.IsNull(row)) return {name, FieldKind::nothing, {}, {}};
  switch (array.type_id()) {
    case arrow::Type::STRING:
      field.text = static_cast<const arrow::StringArray&>(array).GetString(row);
      break;
    case arrow::Type::LARGE_STRING:
      field.text = static_cast<const arrow::LargeStringArray&>(array).GetString(row);
      break;
    case arrow::Type::DICTIONARY: {
      const auto& dictionary = static_cast<const arrow::DictionaryArray&>(array);
      return field_of(name, *dictionary.dictionary(), dictionary.GetValueIndex(row), with_lists);
    }
    case arrow::Type::LIST:
    case arrow::Type::LARGE_LIST:
      field.kind = FieldKind::list;
      if (!with_lists) return field;
      field.items = array.type_id() == arrow::Type::LIST ? items_of<arrow::ListArray>(array, row)
                                                         : items_of<arrow::LargeListArray>(array, row);
      return field;
    default:
      return field;
  }
  field.kind = FieldKind::text;
  if (const std::size_t bad = find_invalid_utf8(field.text); bad != std::string_view::npos)
    throw Error{Fault::data, Place{}, fmt::format("\"{}\" holds invalid UTF-8 (byte {})", name, bad),
                "convert the text to UTF-8"};
  return field;
}

Fields fields_of(const arrow::StructArray& rows, std::int64_t row, bool with_lists) {
  Fields fields;
  for (int i = 0; i < rows.num_fields(); ++i)
    fields.push_back(field_of(rows.struct_type()->field(i)->name(), *rows.field(i), row, with_lists));
  return fields;
}

// Rows are numbered from 1 where other formats have lines.
class Parquet final : public FieldReader {
 public:
  Parquet(const std::string& path, RowLog& log) : path_(path), log_(log) {
    const auto file = checked(arrow::io::ReadableFile::Open(path), path);
    reader_ = checked(parquet::arrow::OpenFile(file, arrow::default_memory_pool()), path);
    constexpr std::int64_t kRowsAtOnce = 1024;
    reader_->set_batch_size(kRowsAtOnce);
    batches_ = checked(reader_->GetRecordBatchReader(), path);
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
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
      }
    }
  }

 private:
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
  std::shared_ptr<arrow::StructArray> rows_;
  std::int64_t next_in_batch_ = 0;
  std::int64_t number_ = 0;
};

}  // namespace

std::unique_ptr<FieldReader> open_parquet(const std::string& path, RowLog& log) {
  return std::make_unique<Parquet>(path, log);
}

}  // namespace tune

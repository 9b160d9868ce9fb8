#include "data/sources/source.h"

#include <fmt/format.h>

#include <array>

#include "data/sources/decompress.h"
#include "data/sources/fields.h"
#include "recipes/schema/suggest.h"

namespace tune {

namespace {

struct Format {
  const char* extension;
  std::unique_ptr<FieldReader> (*open)(const std::string& path, RowLog& log);
};

constexpr std::array<Format, 5> kFormats = {{{".jsonl", open_jsonl},
                                             {".json", open_json},
                                             {".csv", open_csv},
                                             {".parquet", open_parquet},
                                             {".txt", open_text}}};

std::unique_ptr<FieldReader> open_reader(const std::string& path, RowLog& log) {
  if (!std::filesystem::exists(path))
    throw Error{Fault::data,
                {path},
                "there is no such file",
                "check data.datasets[].path; it is relative to where tune is started"};
  const std::string extension = format_of(path);
  if (extension == ".parquet" && !path.ends_with(extension))
    throw Error{Fault::data, {path}, "is packed Parquet, which is read by parts and compresses itself", "unpack it"};
  std::vector<std::string> known;
  for (const Format& format : kFormats) {
    if (extension == format.extension) return format.open(path, log);
    known.emplace_back(format.extension);
  }
  throw Error{Fault::data,
              {path},
              fmt::format("the name ends in \"{}\"; it must end in {}", extension, one_of(known)),
              "convert it; .gz or .zst may follow"};
}

class RecordSource final : public Source {
 public:
  RecordSource(const DatasetOptions& options, Part part, RowLog& log)
      : options_(options), part_(part), log_(log), reader_(open_reader(options.path, log)) {}

  bool next(Record& record) override {
    Fields fields;
    Place place;
    while (reader_->next(fields, place)) {
      if (!is_wanted(index_++)) continue;
      try {
        record = make_record(std::move(fields), options_);
        record.place = place;
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
      }
    }
    return false;
  }

 private:
  bool is_wanted(std::int64_t index) const {
    const std::int64_t k = options_.holdout_every;
    return k <= 0 || (index % k == 0) == (part_ == Part::evaluation);
  }

  DatasetOptions options_;
  Part part_;
  RowLog& log_;
  std::unique_ptr<FieldReader> reader_;
  std::int64_t index_ = 0;
};

}  // namespace

std::string format_of(const std::string& path) { return without_packing(path).extension().string(); }

std::unique_ptr<Source> open_source(const DatasetOptions& options, Part part, RowLog& log) {
  check_field_names(options);
  return std::make_unique<RecordSource>(options, part, log);
}

}  // namespace tune

#include "data/sources/source.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "data/sources/decompress.h"
#include "data/sources/fields.h"
#include "data/sources/stretches.h"
#include "recipes/schema/suggest.h"

namespace tune {

namespace {

struct Format {
  const char* extension;
  std::unique_ptr<FieldReader> (*open)(const DatasetOptions& options, RowLog& log);
};

constexpr std::array<Format, 5> kFormats = {{{".jsonl", open_jsonl},
                                             {".json", open_json},
                                             {".csv", open_csv},
                                             {".parquet", open_parquet},
                                             {".txt", open_text}}};

std::unique_ptr<FieldReader> open_reader(const DatasetOptions& options, RowLog& log) {
  const std::string& path = options.path;
  check_exists(path);
  const std::string extension = format_of(path);
  if (extension == ".parquet" && !path.ends_with(extension))
    throw Error{Fault::data, {path}, "is packed Parquet, which is read by parts and compresses itself", "unpack it"};
  std::vector<std::string> known;
  for (const Format& format : kFormats) {
    if (extension == format.extension) return format.open(options, log);
    known.emplace_back(format.extension);
  }
  throw Error{Fault::data,
              {path},
              fmt::format("the name ends in \"{}\"; it must end in {}", extension, one_of(known)),
              "convert it; .gz or .zst may follow"};
}

constexpr std::size_t kLongestFimBytes = std::size_t{256} << 20;

class RecordSource final : public Source {
 public:
  RecordSource(const DatasetOptions& options, Part part, RowLog& log)
      : options_(options), part_(part), log_(log), reader_(open_reader(options, log)) {}

  bool next(Record& record) override {
    if (!rest_.text.empty()) {
      record = next_part();
      return true;
    }
    Fields fields;
    Place place;
    while (reader_->next(fields, place)) {
      if (fields.empty() || begins(fields.front().part)) is_wanted_ = is_wanted(index_++);
      if (!is_wanted_) continue;
      try {
        record = make_record(std::move(fields), options_);
        record.place = place;
        if (options_.type == DatasetType::fim) return whole(record) || next(record);
        if (record.part == TextPart::whole && record.text.size() > kStretchBytes) {
          rest_ = std::exchange(record, {});
          record = next_part();
        }
        return true;
      } catch (const Error& error) {
        log_.refuse(place, error);
        is_wanted_ = false;  // nor are the other parts
      }
    }
    return false;
  }

 private:
  bool is_wanted(std::int64_t index) const {
    const std::int64_t k = options_.holdout_every;
    return k <= 0 || (index % k == 0) == (part_ == Part::evaluation);
  }

  // The other parts of a text are put behind the first: it is cut where a part may end as well as anywhere else.
  bool whole(Record& record) {
    Fields fields;
    Place place;
    while (!ends(record.part)) {
      if (!reader_->next(fields, place)) return false;  // what follows was refused
      record.part = text_part(true, ends(fields.front().part));
      record.text += fields.front().text;
      if (record.text.size() > kLongestFimBytes)
        throw Error{Fault::data,
                    {options_.path},
                    fmt::format("is longer than {} MiB; with type fim a row is taken whole", kLongestFimBytes >> 20),
                    "write one row a source file, as .jsonl"};
    }
    return true;
  }

  Record next_part() {
    const std::string_view rest = std::string_view(rest_.text).substr(next_);
    const std::size_t length = stretch_end(rest, false);
    Record record{{},          {}, std::string(rest.substr(0, length)), text_part(next_ == 0, length == rest.size()),
                  rest_.place, {}};
    next_ += length;
    if (ends(record.part)) rest_.text.clear(), next_ = 0;
    return record;
  }

  DatasetOptions options_;
  Part part_;
  RowLog& log_;
  std::unique_ptr<FieldReader> reader_;
  std::int64_t index_ = 0;
  bool is_wanted_ = true;
  Record rest_;           // a long text on its way,
  std::size_t next_ = 0;  // handed out up to here
};

}  // namespace

void check_exists(const std::string& path) {
  if (!std::filesystem::exists(path))
    throw Error{Fault::data,
                {path},
                "there is no such file",
                "check data.datasets[].path; it is relative to where tune is started"};
}

std::string format_of(const std::string& path) { return without_packing(path).extension().string(); }

std::unique_ptr<Source> open_source(const DatasetOptions& options, Part part, RowLog& log) {
  return std::make_unique<RecordSource>(options, part, log);
}

}  // namespace tune

#include "data/dataset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <unordered_set>
#include <utility>

#include "checkpoints/files/hash.h"
#include "data/encode.h"
#include "data/ordered_pool.h"
#include "data/sources/source.h"
#include "data/token_cache.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"

namespace tune {

namespace {

using Chunk = std::vector<Record>;

struct EncodedRecord {
  Encoded encoded;
  Place place;
};
using EncodedChunk = std::vector<EncodedRecord>;

// Everything that decides the rows. The first word changes when what we do with them changes.
std::string cache_key(const std::vector<DatasetOptions>& which, Part part, const Encoder& encoder) {
  const auto& [tokenizer, chat_template, train_on, overflow, max_length] = encoder;
  std::string facts = fmt::format("rows-1\n{} {}\n{}\n{}\n{} {} {} {}\n", tokenizer.fingerprint, tokenizer.add_bos,
                                  chat_template.name(), chat_template.jinja(), spelling(train_on), spelling(overflow),
                                  max_length, part == Part::evaluation ? "evaluation" : "training");
  for (const DatasetOptions& options : which)
    facts += fmt::format("{} {} {} {} {} {}\n", xxh3_128_of_file(options.path), format_of(options.path),
                         spelling(options.type), options.holdout_every, options.field_names, options.field_roles);
  return xxh3_128(facts);
}

// Takes the encoded rows in the files' order: counts them, writes them, refuses what has to be refused.
class Collector {
 public:
  Collector(TokenCacheWriter& writer, AuditCounts& counts, RowLog& log) : writer_(writer), counts_(counts), log_(log) {}

  void begin_source(std::size_t number) {
    source_ = number;
    seen_.clear();
  }

  void take(const EncodedRecord& record) {
    const auto& [encoded, place] = record;
    if (encoded.refused) return log_.refuse(place, *encoded.refused);
    SourceCounts& counts = counts_.sources[source_];
    ++counts.rows;
    counts.duplicates += seen_.insert(encoded.content_hash).second ? 0 : 1;
    counts.truncated += encoded.fit == Fit::truncated ? 1 : 0;
    counts.split += encoded.fit == Fit::split ? 1 : 0;
    if (encoded.fit == Fit::too_long)
      ++counts.dropped_too_long;
    else
      ++(encoded.pieces.empty() ? counts.dropped_untrained : counts.kept);
    for (const Row& piece : encoded.pieces) {
      writer_.add({piece.ids, piece.trained}, place.line, static_cast<std::int64_t>(source_));
      const std::int64_t trained =
          std::count_if(piece.trained.begin() + 1, piece.trained.end(), [](auto t) { return t != 0; });
      count_document(counts_, source_, static_cast<std::int64_t>(piece.ids.size()), trained);
    }
  }

 private:
  TokenCacheWriter& writer_;
  AuditCounts& counts_;
  RowLog& log_;
  std::size_t source_ = 0;
  std::unordered_set<std::uint64_t> seen_;
};

std::size_t text_bytes(const Record& record) {
  std::size_t bytes = record.text.size();
  for (const Message& message : record.messages) bytes += message.content.size();
  return bytes;
}

// Chunks are large enough to be worth a hand-over between threads and small enough that many fit in memory.
void encode_source(const DatasetOptions& options, Part part, const Encoder& encoder, RowLog& log,
                   Collector& collector) {
  constexpr std::size_t kChunkBytes = 64 << 10;
  OrderedPool<Chunk, EncodedChunk> pool(
      [&](const Chunk& chunk) {
        EncodedChunk results;
        for (const Record& record : chunk) results.push_back({encode(record, encoder), record.place});
        return results;
      },
      [&](const EncodedChunk& results) {
        for (const EncodedRecord& result : results) collector.take(result);
      });
  const auto source = open_source(options, part, log);
  Chunk chunk;
  std::size_t bytes = 0;
  for (Record record; source->next(record); record = {}) {
    bytes += text_bytes(record);
    chunk.push_back(std::move(record));
    if (bytes < kChunkBytes) continue;
    pool.submit(std::exchange(chunk, {}));
    bytes = 0;
  }
  pool.submit(std::move(chunk));
  pool.finish();
}

void write_cache(const std::filesystem::path& path, const std::string& key, const std::vector<DatasetOptions>& which,
                 Part part, const Encoder& encoder) {
  TokenCacheWriter writer(path, key);
  AuditCounts counts;
  RowLog log;
  Collector collector(writer, counts, log);
  for (std::size_t i = 0; i < which.size(); ++i) {
    counts.sources.push_back({which[i].path});
    collector.begin_source(i);
    encode_source(which[i], part, encoder, log, collector);
  }
  log.raise();
  writer.commit(counts);
}

void check_not_empty(const AuditCounts& counts) {
  for (const SourceCounts& source : counts.sources) {
    if (source.kept > 0) continue;
    if (source.rows == 0) throw Error{Fault::data, {source.file}, "holds no rows", "check the path and holdout_every"};
    throw Error{Fault::data,
                {source.file},
                fmt::format("none of its {} rows can be learned from: {} too long, {} without a trained token",
                            source.rows, source.dropped_too_long, source.dropped_untrained),
                "look at them with `tune data show`; raise data.max_length"};
  }
}

void check_max_length(std::int64_t max_length, std::int64_t model_max_length) {
  if (model_max_length <= 0 || max_length <= model_max_length) return;
  throw Error{Fault::recipe, Place{},
              fmt::format("data.max_length is {}; the model has {} positions", max_length, model_max_length),
              fmt::format("write data.max_length: {} or less", model_max_length)};
}

// A folder that goes with the object; what is mapped from it stays readable.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tune-tokens-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr)
      throw Error{Fault::running, {name}, "no temporary folder can be made", "set TMPDIR, or data.cache_dir"};
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

std::unique_ptr<TokenDataset> tokenize(const DataOptions& data, const std::vector<DatasetOptions>& which,
                                       bool evaluation, const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                                       Stage stage, std::int64_t model_max_length,
                                       const std::filesystem::path& finished, AuditCounts* counts) {
  check_max_length(data.max_length, model_max_length);
  if (which.empty()) throw Error{Fault::recipe, Place{}, "no data set is named", "write data.datasets: [{path: FILE}]"};
  const Part part = evaluation ? Part::evaluation : Part::training;
  const Encoder encoder{tokenizer, chat_template, stage == Stage::pretrain ? TrainOn::all : data.train_on,
                        data.overflow, data.max_length};
  std::vector<std::string> files;
  for (const DatasetOptions& options : which) files.push_back(options.path);

  const std::string key = cache_key(which, part, encoder), name = key + ".tokens";
  const std::filesystem::path folder = data.cache_dir.empty() ? finished : std::filesystem::path(data.cache_dir);
  std::filesystem::path path = folder / name;
  OpenedCache cache;
  if (!folder.empty()) cache = open_token_cache(path, key, files);
  if (!cache.problem.empty()) tell("{}: {}; it is made again\n", path.string(), cache.problem);
  std::optional<TemporaryFolder> temporary;
  if (cache.dataset == nullptr) {
    if (data.cache_dir.empty()) path = temporary.emplace().path() / name;
    write_cache(path, key, which, part, encoder);
    cache = open_token_cache(path, key, files);
    TUNE_CHECK(cache.dataset != nullptr, "{}: {}", path.string(), cache.problem);
  }
  check_not_empty(cache.audit);
  if (counts != nullptr) *counts = std::move(cache.audit);
  return std::move(cache.dataset);
}

}  // namespace tune

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
#include "data/answer_exchange.h"
#include "data/encode.h"
#include "data/infilling.h"
#include "data/ordered_pool.h"
#include "data/sources/source.h"
#include "data/token_cache.h"
#include "recipes/schema/spelling.h"
#include "recipes/schema/tell.h"

namespace tune {

namespace {

using Chunk = std::vector<Record>;

// What a thread makes of a record: fitted, but for a text in parts, which is put together in order.
struct EncodedRecord {
  Encoded fitted;
  Row part_ids;
  TextPart part;
  Place place;
  bool is_single = false;  // an answer by itself, which is given another's
};
using EncodedChunk = std::vector<EncodedRecord>;

EncodedRecord encoded(const Record& record, const Encoder& encoder) {
  EncodedRecord result{{}, {}, record.part, record.place, record.label.has_value()};
  try {
    result.part_ids = encode(record, encoder);
    if (record.part == TextPart::whole) result.fitted = Fitter(encoder).add(std::exchange(result.part_ids, {}), true);
  } catch (const Error& error) {
    if (error.fault() != Fault::data) throw;
    result.fitted.refused = error;
  }
  return result;
}

// Everything that decides the rows. The first word changes when what we do with them changes.
std::string cache_key(const std::vector<DatasetOptions>& which, Part part, const Encoder& encoder, std::int64_t seed) {
  const auto& [tokenizer, chat_template, train_on, overflow, max_length] = encoder;
  std::string facts = fmt::format("rows-2\n{} {}\n{}\n{}\n{} {} {} {}\n", tokenizer.fingerprint, tokenizer.add_bos,
                                  chat_template.name(), chat_template.jinja(), spelling(train_on), spelling(overflow),
                                  max_length, part == Part::evaluation ? "evaluation" : "training");
  for (const DatasetOptions& options : which) {
    facts += fmt::format("{} {} {} {} {} {}\n", xxh3_128_of_file(options.path), format_of(options.path),
                         spelling(options.type), options.holdout_every, options.field_names, options.field_roles);
    if (options.type == DatasetType::fim)
      facts += fmt::format("{} {} {}\n", options.fim_rate.value_or(kDefaultFimRate),
                           options.fim_spm_rate.value_or(kDefaultFimSpmRate), seed);
  }
  return xxh3_128(facts);
}

// Takes the encoded rows in the files' order: counts them, writes them, refuses what has to be refused.
class Collector {
 public:
  Collector(const Encoder& encoder, TokenCacheWriter& writer, AuditCounts& counts, RowLog& log)
      : encoder_(encoder), writer_(writer), counts_(counts), log_(log), exchange_(encoder) {}

  void begin_source(const std::string& path) {
    counts_.sources.push_back({path});
    seen_.clear();
  }

  void take(EncodedRecord record) {
    Encoded& encoded = record.fitted;
    if (begins(record.part)) kept_pieces_ = 0;
    if (record.part == TextPart::first) text_.emplace(encoder_);
    if (record.part != TextPart::whole) encoded = text_->add(record.part_ids, ends(record.part));
    if (encoded.refused) return log_.refuse(record.place, *encoded.refused);
    if (record.is_single && !encoded.pieces.empty()) return keep(exchange_.add(std::move(encoded)));
    for (const Row& piece : encoded.pieces) write(piece, record.place);
    if (ends(record.part)) count(encoded);
  }

  void end_source() { keep(exchange_.end()); }

 private:
  void keep(const std::vector<Encoded>& singles) {
    for (const Encoded& single : singles) {
      if (single.refused) {
        log_.refuse(single.pieces.front().place, *single.refused);
        continue;
      }
      kept_pieces_ = 0;
      for (const Row& piece : single.pieces) write(piece, piece.place);
      count(single);
    }
  }

  void write(const Row& piece, const Place& place) {
    const std::size_t source = counts_.sources.size() - 1;
    writer_.add({piece.ids, piece.trained}, place.line, static_cast<std::int64_t>(source));
    const std::int64_t trained = std::count_if(piece.trained.begin() + 1, piece.trained.end(), is_trained);
    count_document(counts_, source, static_cast<std::int64_t>(piece.ids.size()), trained);
    ++kept_pieces_;
  }

  void count(const Encoded& encoded) {
    SourceCounts& counts = counts_.sources.back();
    ++counts.rows;
    counts.duplicates += seen_.insert(encoded.content_hash).second ? 0 : 1;
    counts.truncated += encoded.fit == Fit::truncated ? 1 : 0;
    counts.split += encoded.fit == Fit::split ? 1 : 0;
    if (encoded.fit == Fit::too_long)
      ++counts.dropped_too_long;
    else
      ++(kept_pieces_ == 0 ? counts.dropped_untrained : counts.kept);
  }

  const Encoder& encoder_;
  TokenCacheWriter& writer_;
  AuditCounts& counts_;
  RowLog& log_;
  AnswerExchange exchange_;
  std::unordered_set<std::uint64_t> seen_;
  std::optional<Fitter> text_;    // that comes in parts
  std::int64_t kept_pieces_ = 0;  // of the row
};

std::size_t text_bytes(const Record& record) {
  std::size_t bytes = record.text.size();
  for (const auto* messages : {&record.messages, &record.rejected})
    for (const Message& message : *messages) bytes += message.content.size();
  return bytes;
}

// Chunks are large enough to be worth a hand-over between threads and small enough that many fit in memory.
void encode_source(const DatasetOptions& options, Part part, const Encoder& encoder, std::int64_t seed, RowLog& log,
                   Collector& collector) {
  std::optional<Infiller> infiller;
  if (options.type == DatasetType::fim) infiller.emplace(options, encoder, seed);
  constexpr std::size_t kChunkBytes = 64 << 10;
  OrderedPool<Chunk, EncodedChunk> pool(
      [&](const Chunk& chunk) {
        EncodedChunk results;
        for (const Record& record : chunk) {
          if (infiller)
            results.push_back({infiller->encode(record), {}, TextPart::whole, record.place});
          else
            results.push_back(encoded(record, encoder));
        }
        return results;
      },
      [&](EncodedChunk results) {
        for (EncodedRecord& result : results) collector.take(std::move(result));
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
                 Part part, const Encoder& encoder, std::int64_t seed, AuditCounts& counts) {
  TokenCacheWriter writer(path, key);
  counts = {};
  RowLog log;
  Collector collector(encoder, writer, counts, log);
  for (const DatasetOptions& options : which) {
    const std::int64_t before = log.count();
    collector.begin_source(options.path);
    encode_source(options, part, encoder, seed, log, collector);
    collector.end_source();
    counts.sources.back().refused = log.count() - before;
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
                                       Stage stage, std::int64_t seed, const std::filesystem::path& finished,
                                       AuditCounts* counts) {
  if (which.empty()) throw Error{Fault::recipe, Place{}, "no data set is named", "write data.datasets: [{path: FILE}]"};
  const Part part = evaluation ? Part::evaluation : Part::training;
  const Encoder encoder{tokenizer, chat_template, stage == Stage::pretrain ? TrainOn::all : data.train_on,
                        data.overflow, data.max_length};
  std::vector<std::string> files;
  for (const DatasetOptions& options : which) {
    check_exists(options.path);
    files.push_back(options.path);
  }

  const std::string key = cache_key(which, part, encoder, seed), name = key + ".tokens";
  const std::filesystem::path folder = data.cache_dir.empty() ? finished : std::filesystem::path(data.cache_dir);
  std::filesystem::path path = folder / name;
  OpenedCache cache;
  if (!folder.empty()) cache = open_token_cache(path, key, files);
  if (!cache.problem.empty()) tell("{}: {}; it is made again\n", path.string(), cache.problem);
  std::optional<TemporaryFolder> temporary;
  if (cache.dataset == nullptr) {
    if (data.cache_dir.empty()) path = temporary.emplace().path() / name;
    AuditCounts made;
    write_cache(path, key, which, part, encoder, seed, counts != nullptr ? *counts : made);
    cache = open_token_cache(path, key, files);
    TUNE_CHECK(cache.dataset != nullptr, "{}: {}", path.string(), cache.problem);
  }
  check_not_empty(cache.audit);
  if (counts != nullptr) *counts = std::move(cache.audit);
  return std::move(cache.dataset);
}

}  // namespace tune

#include "data/token_cache.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <array>
#include <cstring>
#include <span>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/hash.h"
#include "checkpoints/files/mapped_file.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::string_view kMagic = "TUNETOK1";
constexpr std::size_t kDigits = 32;  // of a hash

struct IndexEntry {
  std::int64_t offset, length, line, source;
};

struct Footer {
  std::int64_t rows, index, audit, audit_bytes;
  std::array<char, kDigits> key;
  std::array<char, kDigits> checksum;
};
static_assert(sizeof(IndexEntry) == 32 && sizeof(Footer) == 96);

std::array<char, kDigits> digits(const std::string& hash) {
  TUNE_CHECK(hash.size() == kDigits, "{} is no hash", hash);
  std::array<char, kDigits> array{};
  std::copy(hash.begin(), hash.end(), array.begin());
  return array;
}

struct FreeHash {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

class CachedRows final : public TokenDataset {
 public:
  CachedRows(MappedFile file, const Footer& footer, const std::vector<std::string>& files)
      : file_(std::move(file)),
        index_(reinterpret_cast<const IndexEntry*>(file_.bytes().data() + footer.index),
               static_cast<std::size_t>(footer.rows)),
        files_(files) {}

  std::int64_t size() const override { return static_cast<std::int64_t>(index_.size()); }
  std::int64_t source(std::int64_t index) const override { return entry(index).source; }
  std::int64_t length(std::int64_t index) const override { return entry(index).length; }
  Place place(std::int64_t index) const override {
    return {files_[static_cast<std::size_t>(entry(index).source)], entry(index).line};
  }

  RowView row(std::int64_t index) const override {
    const IndexEntry& found = entry(index);
    const auto length = static_cast<std::size_t>(found.length);
    const std::byte* ids = file_.bytes().data() + found.offset;  // a multiple of 4 in a page-aligned mapping
    return {{reinterpret_cast<const std::int32_t*>(ids), length},
            {reinterpret_cast<const std::uint8_t*>(ids + length * sizeof(std::int32_t)), length}};
  }

 private:
  const IndexEntry& entry(std::int64_t index) const {
    TUNE_CHECK(index >= 0 && index < size(), "row {} of {}", index, size());
    return index_[static_cast<std::size_t>(index)];
  }

  MappedFile file_;
  std::span<const IndexEntry> index_;
  std::vector<std::string> files_;
};

// Whole, as the checksum says, and written for this key: after that the offsets in the file are our own.
std::string problem_of(const MappedFile& file, const std::string& key, Footer& footer) {
  const auto bytes = file.bytes();
  if (bytes.size() < kMagic.size() + sizeof(Footer) || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    return "is no token cache of this version";
  std::memcpy(&footer, bytes.data() + bytes.size() - sizeof(Footer), sizeof(Footer));
  if (footer.checksum != digits(xxh3_128(bytes.first(bytes.size() - kDigits)))) return "is damaged";
  if (footer.key != digits(key)) return "was written for other data";
  return {};
}

}  // namespace

struct TokenCacheWriter::Output {
  AtomicFile file;
  std::string key;
  std::unique_ptr<XXH3_state_t, FreeHash> hash;
  std::int64_t offset = 0;
  std::vector<IndexEntry> index;

  void write(const void* data, std::size_t count) {
    file.file().write(std::span(static_cast<const std::byte*>(data), count));
    XXH3_128bits_update(hash.get(), data, count);
    offset += static_cast<std::int64_t>(count);
  }

  void align(std::size_t multiple) {
    constexpr std::array<char, 8> kZeros{};
    write(kZeros.data(), (multiple - static_cast<std::size_t>(offset) % multiple) % multiple);
  }

  std::string checksum() const {
    const XXH128_hash_t sum = XXH3_128bits_digest(hash.get());
    return fmt::format("{:016x}{:016x}", sum.high64, sum.low64);
  }
};

TokenCacheWriter::TokenCacheWriter(const std::filesystem::path& path, const std::string& key)
    : output_(new Output{AtomicFile(path), key, std::unique_ptr<XXH3_state_t, FreeHash>(XXH3_createState())}) {
  XXH3_128bits_reset(output_->hash.get());
  output_->write(kMagic.data(), kMagic.size());
}

TokenCacheWriter::~TokenCacheWriter() = default;

void TokenCacheWriter::add(const RowView& row, std::int64_t line, std::int64_t source) {
  TUNE_CHECK(row.ids.size() == row.trained.size(), "{} ids, {} marks", row.ids.size(), row.trained.size());
  output_->index.push_back({output_->offset, static_cast<std::int64_t>(row.ids.size()), line, source});
  output_->write(row.ids.data(), row.ids.size_bytes());
  output_->write(row.trained.data(), row.trained.size_bytes());
  output_->align(sizeof(std::int32_t));
}

void TokenCacheWriter::commit(const AuditCounts& audit) {
  const std::string audit_text = to_json(audit);
  Footer footer{};
  output_->align(alignof(IndexEntry));
  footer.rows = static_cast<std::int64_t>(output_->index.size());
  footer.index = output_->offset;
  output_->write(output_->index.data(), output_->index.size() * sizeof(IndexEntry));
  footer.audit = output_->offset;
  footer.audit_bytes = static_cast<std::int64_t>(audit_text.size());
  output_->write(audit_text.data(), audit_text.size());
  footer.key = digits(output_->key);
  output_->write(&footer, sizeof(Footer) - kDigits);
  footer.checksum = digits(output_->checksum());
  output_->write(footer.checksum.data(), kDigits);
  output_->file.commit();
}

OpenedCache open_token_cache(const std::filesystem::path& path, const std::string& key,
                             const std::vector<std::string>& files) {
  if (!std::filesystem::exists(path)) return {};
  MappedFile file(path);
  Footer footer{};
  if (std::string problem = problem_of(file, key, footer); !problem.empty()) return {nullptr, {}, std::move(problem)};
  const auto* audit = reinterpret_cast<const char*>(file.bytes().data() + footer.audit);
  AuditCounts counts = audit_from_json({audit, static_cast<std::size_t>(footer.audit_bytes)});
  for (std::size_t i = 0; i < files.size(); ++i) counts.sources[i].file = files[i];  // the same bytes may have moved
  return {std::make_unique<CachedRows>(std::move(file), footer, files), std::move(counts), {}};
}

}  // namespace tune

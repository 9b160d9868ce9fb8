#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/audit.h"
#include "data/loader.h"
#include "data/row.h"

namespace tune {

// The file format, version 1, little-endian:
//   8 bytes   "TUNETOK1"
//   per row   ids (int32 each), trained (1 byte each), zeros up to the next multiple of 4
//   index     32 bytes a row: offset of its ids, number of ids, line, source (int64 each)
//   audit     JSON text
//   footer    96 bytes: rows, offset of the index, offset of the audit, bytes of the audit (int64 each);
//             the key (32 hex digits); XXH3-128 of all bytes before the checksum itself (32 hex digits)

/// Writes rows as they come; only the index is held in memory. What isn't committed doesn't exist.
class TokenCacheWriter {
 public:
  /// key: 32 hex digits, the hash of everything the rows depend on.
  TokenCacheWriter(const std::filesystem::path& path, const std::string& key);
  ~TokenCacheWriter();
  TokenCacheWriter(const TokenCacheWriter&) = delete;
  TokenCacheWriter& operator=(const TokenCacheWriter&) = delete;

  void add(const RowView& row, std::int64_t line, std::int64_t source);
  void commit(const AuditCounts& audit);

 private:
  struct Output;
  std::unique_ptr<Output> output_;
};

/// A cache file that was found whole, memory-mapped.
struct OpenedCache {
  std::unique_ptr<TokenDataset> dataset;  // null where there is none or it can't be used
  AuditCounts audit;
  std::string problem;  // why it can't be used; empty when there is no file
};

/// files: by source, for the rows' places.
OpenedCache open_token_cache(const std::filesystem::path& path, const std::string& key,
                             const std::vector<std::string>& files);

}  // namespace tune

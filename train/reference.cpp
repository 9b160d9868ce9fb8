#include "train/reference.h"

#include <cstring>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/files/hash.h"
#include "checkpoints/files/mapped_file.h"

namespace tune {
namespace {

// key, sums (two doubles a row), and the hash of both: a file that says less is made again.
constexpr std::size_t kDigits = 32;

std::vector<double> kept_sums(const std::filesystem::path& file, const std::string& key, std::size_t count) {
  std::vector<double> sums;
  if (file.empty() || !std::filesystem::exists(file)) return sums;
  const std::string bytes = read_text(file);
  if (bytes.size() != 2 * kDigits + count * sizeof(double) || !bytes.starts_with(key)) return sums;
  const std::string body = bytes.substr(0, bytes.size() - kDigits);
  if (xxh3_128(std::as_bytes(std::span(body))) != bytes.substr(body.size())) return sums;
  sums.resize(count);
  std::memcpy(sums.data(), body.data() + kDigits, count * sizeof(double));
  return sums;
}

void keep_sums(const std::filesystem::path& file, const std::string& key, const std::vector<double>& sums) {
  std::string body = key;
  body.append(reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(double));
  write_atomically(file, body + xxh3_128(std::as_bytes(std::span(body))));
}

}  // namespace

std::vector<PairLogProbabilities> reference_of(Decoder& decoder, const TokenDataset& dataset,
                                               std::int64_t rows_per_batch, std::int64_t max_tokens, World& world,
                                               const std::filesystem::path& file, const std::string& key) {
  const auto count = 2 * static_cast<std::size_t>(dataset.size());
  std::vector<double> sums = kept_sums(file, key, count);
  // all or none: the ranks may not see the same folder
  const double found = sums.empty() ? 0 : 1, ranks = static_cast<double>(world.rank().count);
  if (world.sum({found}).front() < ranks) {
    sums.assign(count, 0);
    decoder.no_dropout();
    EvaluationBatches batches(dataset, rows_per_batch, max_tokens);
    for (std::optional<SourcedBatch> batch = batches.next(); batch;) {
      std::optional<SourcedBatch> mine;  // of a round, one batch a rank
      for (std::int64_t rank = 0; rank < world.rank().count && batch; ++rank, batch = batches.next())
        if (rank == world.rank().number) mine = std::move(batch);
      if (!mine) {
        if (decoder.has_keeper()) decoder.forward(one_document({0}), false);
        continue;
      }
      const std::vector<PairLogProbabilities> pairs = pair_log_probabilities(decoder, mine->rows, true);
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        const auto at = 2 * static_cast<std::size_t>(mine->rows.pairs[i].number);
        sums[at] = pairs[i].chosen;
        sums[at + 1] = pairs[i].rejected;
      }
    }
    sums = world.sum(std::move(sums));
    if (!file.empty() && world.rank().writes()) keep_sums(file, key, sums);
  }
  std::vector<PairLogProbabilities> reference;
  for (std::size_t i = 0; i < count; i += 2) reference.push_back({sums[i], sums[i + 1]});
  return reference;
}

}  // namespace tune

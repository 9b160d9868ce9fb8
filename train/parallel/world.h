#pragma once
#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "recipes/schema/recipe.h"
#include "train/parallel/rank.h"
#include "train/parallel/watch.h"

namespace tune {

/// The ranks of one run and what they tell each other, through c10d: a TCPStore that rank 0 keeps, Gloo for values on
/// the host, Gloo or NCCL for tensors. Every rank must call the same collectives in the same order. Alone, all of it is
/// free. One thread at a time. Collectives throw what Watch::waiting does.
class World {
 public:
  /// One process: nobody to talk to.
  World();

  /// Meets the others, before everything else. Facts are compared with rank 0's. device: "cpu" or "cuda:N", the same
  /// kind for all. Error{Fault::recipe} when the port is taken, the master or a rank doesn't come within the timeout
  /// (which one is named), facts differ (rank and fact are named), or shard_size doesn't divide the ranks.
  void meet(const Rank& rank, const DistributedOptions& options, const std::string& device,
            const std::filesystem::path& output_dir, const std::map<std::string, std::string>& facts);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  const Rank& rank() const { return rank_; }
  bool alone() const { return rank_.count == 1; }
  std::int64_t hosts() const { return hosts_; }

  /// The ranks that keep one copy of a sharded model between them: how many they are, and this one's number among them.
  /// Consecutive ones; all of them unless distributed.shard_size says otherwise.
  std::int64_t shard_count() const { return shard_count_; }
  std::int64_t shard_number() const { return rank_.number % shard_count_; }
  std::int64_t copies() const { return rank_.count / shard_count_; }

  /// Says what this rank is about to do.
  void enter(Phase phase, std::int64_t step = 0);

  /// Whether this rank is the one to tell of a failure that ends the run with `code`, before and in meet(), too.
  bool claims_failure(const std::filesystem::path& output_dir, int code) const;
  void leave_the_word() const;

  /// Sums over all ranks.
  std::vector<double> sum(std::vector<double> values);

  /// A sum over all ranks that goes on in the background, in place; `values` is contiguous and stays untouched until
  /// wait(). On CUDA wait() makes the current stream wait, not the host.
  class Pending {
   public:
    void wait();

   private:
    friend class World;
    std::function<void()> wait_;
  };
  Pending begin_sum(const at::Tensor& values);

  /// As begin_sum(), over the ranks that have the same slice of the other copies.
  Pending begin_sum_over_copies(const at::Tensor& values);

  /// As begin_sum(), among the ranks of one copy: `part` [n] of each, in order, into `whole` [shard_count * n] of all.
  Pending begin_gather(const at::Tensor& whole, const at::Tensor& part);

  /// As begin_sum(), over the ranks of one copy, of which each gets only its own slice of `values` [shard_count * n],
  /// in place; what the others' slices hold afterwards is nobody's business.
  Pending begin_sum_of_slices(const at::Tensor& values);

  /// What rank `root` has in `values`, for everybody, in place. Returns when it is there.
  void broadcast(const at::Tensor& values, std::int64_t root);

  /// What rank 0 makes of it, for everybody; the others wait for as long as it takes.
  std::string from_first(const std::function<std::string()>& text);

  /// One text of each rank, in order.
  std::vector<std::string> from_each(const std::string& text);

 private:
  struct Parts;
  Rank rank_;
  std::int64_t hosts_ = 1, shard_count_ = 1;
  std::unique_ptr<Parts> parts_;  // null alone
};

}  // namespace tune

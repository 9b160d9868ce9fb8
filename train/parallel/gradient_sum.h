#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "train/model/decoder.h"
#include "train/parallel/world.h"

namespace tune {

/// Data parallelism: sums the gradients of all ranks in the order in which a backward pass completes them, from the
/// last parameter to the first, while it goes on with the rest. Gradients that are large travel as they lie; small ones
/// are put together into buckets. Alone it does nothing.
/// (c10d's Reducer does the same for autograd's graphs; ours are written out by hand and have no hooks for it.)
class GradientSum {
 public:
  /// bytes: a bucket is sent when it holds so many. The parameters must outlive it, their gradients stay where they
  /// are.
  GradientSum(World& world, std::vector<Parameter>& parameters, std::int64_t bucket_bytes = 25 << 20);

  void ready_from(std::size_t first);  // the gradients of the parameters from there on are complete
  void finish();                       // all are; waits until every gradient is the sum over the ranks

 private:
  struct Bucket {
    std::size_t first = 0;                // it can go when the gradients from there on are complete
    at::Tensor values;                    // [elements] fp32, or one large gradient itself
    std::vector<at::Tensor> gradients{};  // that lie in it one behind the other; none where it is the gradient
  };

  World& world_;
  std::vector<Bucket> buckets_;          // in the order in which they go
  std::vector<World::Pending> pending_;  // of those that have gone in this step
};

}  // namespace tune

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "train/parallel/backend.h"
#include "train/parallel/rank.h"

namespace tune {

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, const Rank& rank,
                                            std::chrono::milliseconds timeout) {
  using Nccl = c10d::ProcessGroupNCCL;
  auto options = Nccl::Options::create(/*is_high_priority_stream=*/true);  // gradients overtake the backward pass
  options->timeout = timeout;
  return c10::make_intrusive<Nccl>(store, static_cast<int>(rank.number), static_cast<int>(rank.count), options);
}

}  // namespace tune

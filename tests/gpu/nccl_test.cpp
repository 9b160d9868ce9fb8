// The sum of gradients over NCCL: as many ranks as there are GPUs, each a thread of this process with its own store
// client; one alone still goes through NCCL.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <thread>

#include "tests/gpu/gpu_test.h"
#include "train/parallel/backend.h"
#include "train/parallel/rank.h"

namespace tune {
namespace {

class Nccl : public GpuTest {};

TEST_F(Nccl, SumsAndGathersOverAllGpus) {
  const auto ranks = static_cast<std::int64_t>(c10::cuda::device_count());
  const auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::string> problems(static_cast<std::size_t>(ranks));
  std::vector<double> seconds(static_cast<std::size_t>(ranks));
  constexpr std::int64_t kValues = 64 << 20;  // 256 MiB of fp32: a large bucket of gradients
  const auto work = [&](std::int64_t number) {
    const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(number));
    const c10::DeviceGuard guard(device);
    const Rank rank{.number = number, .count = ranks, .local_number = number, .local_count = ranks};
    const auto backend = make_nccl(store, rank, std::chrono::minutes(2));
    at::Tensor values = at::arange(kValues, at::TensorOptions(at::kFloat).device(device)).remainder_(1024);
    const at::Tensor expected = values * (static_cast<double>(ranks) * (ranks + 1) / 2);
    values.mul_(static_cast<double>(number + 1));
    std::vector<at::Tensor> tensors = {values};
    backend->allreduce(tensors)->wait();
    if (!values.equal(expected)) problems[static_cast<std::size_t>(number)] = "the sum is wrong";
    // A shard's two: each rank's slice of the sum, then all slices of all ranks.
    const std::int64_t each = kValues / ranks;
    at::Tensor whole = (expected * static_cast<double>(number + 1)).narrow(0, 0, each * ranks);
    at::Tensor mine = whole.narrow(0, number * each, each);
    sum_slices(*backend, whole, mine)->wait();
    if (!mine.equal((expected * (static_cast<double>(ranks) * (ranks + 1) / 2)).narrow(0, number * each, each)))
      problems[static_cast<std::size_t>(number)] = "the sum of slices is wrong";
    mine.copy_(expected.narrow(0, number * each, each));
    gather_slices(*backend, whole, mine)->wait();
    if (!whole.equal(expected.narrow(0, 0, each * ranks)))
      problems[static_cast<std::size_t>(number)] = "what was gathered is wrong";
    constexpr int kRounds = 5;
    c10::cuda::device_synchronize();
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < kRounds; ++round) backend->allreduce(tensors)->wait();
    c10::cuda::device_synchronize();
    seconds[static_cast<std::size_t>(number)] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / kRounds;
  };
  std::vector<std::thread> threads;
  for (std::int64_t i = 0; i < ranks; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& problem : problems) EXPECT_EQ(problem, "");
  figures_ = fmt::format("{} rank{}: 256 MiB in {:.2f} ms", ranks, ranks == 1 ? "" : "s", seconds.front() * 1e3);
}

}  // namespace
}  // namespace tune

#include "tools/verbs/doctor_ranks.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>

#include "recipes/schema/error.h"
#include "recipes/schema/spelling.h"
#include "tools/verbs/as_rank.h"
#include "tools/verbs/launch_argument.h"
#include "tools/verbs/verbs.h"
#include "train/device.h"
#include "train/parallel/cores.h"
#include "train/parallel/world.h"

namespace tune {
namespace {

constexpr int kRounds = 5;
constexpr std::int64_t kSizes[] = {1 << 10, 32 << 10, 1 << 20, 8 << 20, 64 << 20};  // bytes
constexpr std::int64_t kBroadcast = 16 << 20;

Device device_of(const std::string& name) {
  for (const auto& [device, spelled] : Spelling<Device>::values)
    if (spelled == name) return device;
  throw Error{Fault::recipe, {}, fmt::format("--device is {}", name), "write auto, cpu or cuda"};
}

// Heartbeats of ranks on one host; on several they are of no use to each other, and nothing else is written.
std::filesystem::path folder() {
  return std::filesystem::temp_directory_path() / fmt::format("tune-doctor-{}", ::getuid());
}

double median_seconds(World& world, const std::function<void()>& collective) {
  std::vector<double> seconds;
  for (int round = 0; round <= kRounds; ++round) {  // the first makes the connections
    world.sum({0.0});                               // so that nobody waits for the slow to arrive
    const auto start = std::chrono::steady_clock::now();
    collective();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin() + 1, seconds.begin() + 1 + kRounds / 2, seconds.end());
  return seconds[1 + kRounds / 2];
}

at::Tensor values_of(std::int64_t bytes, double value, const std::string& device) {
  return at::full({bytes / 4}, value, at::TensorOptions(at::kFloat).device(at::Device(device)));
}

// Bus bandwidth as nccl-tests define it: what each link carries, whatever the number of ranks.
bool measure_sums(World& world, const std::string& device, std::string& table) {
  const auto ranks = static_cast<double>(world.rank().count);
  bool right = true;
  table += fmt::format("{:>12}{:>12}{:>14}{:>14}   sum of gradients\n", "bytes", "ms", "GB/s", "bus GB/s");
  for (const std::int64_t bytes : kSizes) {
    const at::Tensor values = values_of(bytes, 0, device);
    const double seconds = median_seconds(world, [&] {
      values.fill_(static_cast<double>(world.rank().number + 1));
      world.begin_sum(values).wait();
      values[0].item();  // on a GPU wait() ends when the sum is enqueued
    });
    right = right && values.eq(ranks * (ranks + 1) / 2).all().item<bool>();
    const double rate = static_cast<double>(bytes) / seconds / 1e9;
    table +=
        fmt::format("{:>12}{:>12.3f}{:>14.3f}{:>14.3f}\n", bytes, seconds * 1e3, rate, rate * 2 * (ranks - 1) / ranks);
  }
  return world.sum({right ? 0.0 : 1.0}).front() == 0;
}

// A slow rank or link shows where it is the source.
void measure_ranks(World& world, const std::string& device, std::string& table) {
  const std::vector<std::string> hosts = world.from_each(fmt::format("{}, pid {}", host_name(), ::getpid()));
  table += fmt::format("\n{:>12}{:>12}{:>14}   a broadcast of {} MiB from each rank\n", "rank", "ms", "GB/s",
                       kBroadcast >> 20);
  const at::Tensor values = values_of(kBroadcast, 1, device);
  for (std::int64_t root = 0; root < world.rank().count; ++root) {
    const double mine = median_seconds(world, [&] { world.broadcast(values, root); });
    double slowest = 0;
    for (const std::string& text : world.from_each(fmt::format("{}", mine)))
      slowest = std::max(slowest, std::stod(text));
    table += fmt::format("{:>12}{:>12.3f}{:>14.3f}   {}\n", root, slowest * 1e3,
                         static_cast<double>(kBroadcast) / slowest / 1e9, hosts[static_cast<std::size_t>(root)]);
  }
}

int measure(World& world, const std::string& device) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::string table = fmt::format("{} ranks on {} host{}, {} each\n\n", world.rank().count, world.hosts(),
                                  world.hosts() == 1 ? "" : "s", device_name(device));
  const bool right = measure_sums(world, device, table);
  measure_ranks(world, device, table);
  if (world.rank().writes()) fmt::print("{}", table);
  if (!right) throw Error{Fault::running, {}, "a sum over the ranks is wrong", "check memory and network cards"};
  world.enter(Phase::finished);
  return 0;
}

}  // namespace

int examine_ranks(const boost::program_options::variables_map& values, const std::vector<std::string>& arguments) {
  const Rank rank = rank_from_environment();
  const Device device = device_of(values["device"].as<std::string>());
  const LaunchOptions wanted = launch_options(values, device, std::numeric_limits<std::int64_t>::max(), rank);
  if (wanted.ranks * wanted.hosts > 1) return launch(wanted, started_with("doctor", arguments), folder());
  if (rank.count == 1)
    throw Error{Fault::recipe, {}, "one rank has nobody to talk to", "start several: --nproc 2, srun or torchrun"};
  return as_rank(rank, folder(), [&](World& world) {
    const std::string name = chosen_device(device);
    world.meet(rank, {.timeout_seconds = 30}, name, folder(), {{"program", program_version()}});
    bind_cores(world, name);
    return measure(world, name);
  });
}

}  // namespace tune

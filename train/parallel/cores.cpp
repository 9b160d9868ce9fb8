#include "train/parallel/cores.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string_view>

#include "train/kernels/cuda.h"

namespace tune {
namespace {

std::vector<int> allowed_cores() {
  std::vector<int> cores;
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  return cores;
}

// Those that the system calls near to the device; none where it doesn't say.
std::vector<int> cores_near(const std::string& device) {
  if (device == "cpu") return {};
  std::ifstream file(
      fmt::format("/sys/bus/pci/devices/{}/local_cpulist", cuda::device_facts(at::Device(device)).pci_address));
  std::string list;
  std::getline(file, list);
  return parse_cores(list);
}

}  // namespace

std::vector<int> parse_cores(const std::string& list) {
  std::vector<int> cores;
  const char *at = list.data(), *const end = at + list.size();
  while (at < end) {
    int first = 0, last = 0;
    const auto number = std::from_chars(at, end, first);
    if (number.ec != std::errc{} || first < 0) return {};
    at = number.ptr;
    last = first;
    if (at < end && *at == '-') {
      const auto other = std::from_chars(at + 1, end, last);
      if (other.ec != std::errc{} || last < first) return {};
      at = other.ptr;
    }
    for (int core = first; core <= last; ++core) cores.push_back(core);
    if (at < end && *at++ != ',') return {};
  }
  return cores;
}

std::vector<int> part_of_cores(const std::vector<int>& cores, std::int64_t index, std::int64_t count) {
  const auto all = static_cast<std::int64_t>(cores.size());
  if (all < count) return cores;
  return {cores.begin() + index * all / count, cores.begin() + (index + 1) * all / count};
}

void bind_cores(World& world, const std::string& device) {
  std::vector<int> mine = allowed_cores(), near;
  for (const int core : cores_near(device))
    if (std::ranges::find(mine, core) != mine.end()) near.push_back(core);
  if (!near.empty()) mine = near;
  const std::string own = fmt::format("{}: {}", host_name(), fmt::join(mine, ","));
  std::int64_t index = 0, count = 0;
  for (std::int64_t rank = 0; const std::string& other : world.from_each(own)) {
    if (other == own && rank < world.rank().number) ++index;
    if (other == own) ++count;
    ++rank;
  }
  const std::vector<int> part = part_of_cores(mine, index, count);
  const int threads =
      std::max(1, static_cast<int>(static_cast<std::int64_t>(mine.size()) / std::max<std::int64_t>(count, 1)));
  if (at::get_num_threads() > threads) at::set_num_threads(threads);
  if (part.empty() || static_cast<std::int64_t>(mine.size()) < count) return;
  cpu_set_t bound;
  CPU_ZERO(&bound);
  for (const int core : part) CPU_SET(static_cast<std::size_t>(core), &bound);
  ::sched_setaffinity(0, sizeof(bound), &bound);  // refused in some sandboxes: then it is slower, no more
}

}  // namespace tune

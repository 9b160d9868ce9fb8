#include "train/plan/process.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace tune {
namespace {

std::int64_t bytes_in(const char* file, const std::string& wanted) {
  std::ifstream lines(file);
  std::string key;
  std::int64_t kilobytes = 0;
  while (lines >> key && key != wanted) lines.ignore(4096, '\n');
  lines >> kilobytes;
  return kilobytes * 1024;
}

std::int64_t status_bytes(const std::string& wanted) { return bytes_in("/proc/self/status", wanted); }

// A container's limit; 0 = none.
std::int64_t cgroup_bytes() {
  std::int64_t bytes = 0;
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"})
    if (std::ifstream(file) >> bytes) return bytes;
  return 0;
}

}  // namespace

std::int64_t resident_bytes() { return status_bytes("VmRSS:"); }

std::int64_t peak_resident_bytes() { return status_bytes("VmHWM:"); }

HostMemory host_memory() {
  HostMemory memory{bytes_in("/proc/meminfo", "MemTotal:"), bytes_in("/proc/meminfo", "MemAvailable:")};
  if (const std::int64_t limit = cgroup_bytes(); limit > 0) memory.total = std::min(memory.total, limit);
  memory.available = std::min(memory.available, memory.total);
  return memory;
}

void forget_peak_resident_bytes() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace tune

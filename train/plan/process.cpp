#include "train/plan/process.h"

#include <fstream>
#include <string>

namespace tune {
namespace {

std::int64_t status_bytes(const std::string& wanted) {
  std::ifstream status("/proc/self/status");
  std::string key;
  std::int64_t kilobytes = 0;
  while (status >> key && key != wanted) status.ignore(4096, '\n');
  status >> kilobytes;
  return kilobytes * 1024;
}

}  // namespace

std::int64_t resident_bytes() { return status_bytes("VmRSS:"); }

std::int64_t peak_resident_bytes() { return status_bytes("VmHWM:"); }

void forget_peak_resident_bytes() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace tune

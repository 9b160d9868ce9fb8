#pragma once
#include <cstdint>

namespace tune {

/// Resident set of this process, now and at most so far, by the kernel's count (proc(5), status). Bytes.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();

/// What there is in this machine, or in the container's limit, and how much of it is free. Bytes; 0 where /proc doesn't
/// say.
struct HostMemory {
  std::int64_t total = 0, available = 0;
};
HostMemory host_memory();

/// The peak is what is resident now (proc(5), clear_refs); without effect where the kernel doesn't allow it.
void forget_peak_resident_bytes();

}  // namespace tune

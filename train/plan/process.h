#pragma once
#include <cstdint>

namespace tune {

/// Resident set of this process, now and at most so far, by the kernel's count (proc(5), status). Bytes.
std::int64_t resident_bytes();
std::int64_t peak_resident_bytes();

}  // namespace tune

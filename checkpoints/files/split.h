#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tune {

/// Which file (from 0) each of the given items goes to, when files of at most max_bytes are filled in order. An item is
/// never split: one that is larger has a file to itself.
std::vector<std::size_t> split_by_size(std::span<const std::uint64_t> item_bytes, std::uint64_t max_bytes);

}  // namespace tune

#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace tune {

/// XXH3, 128 bits, as 32 lower-case hexadecimal digits in the canonical (big-endian) order: what `xxh128sum` prints.
/// Finds damage, not forgery.
std::string xxh3_128(std::span<const std::byte> bytes);
std::string xxh3_128(std::string_view text);

/// Of a file's bytes. Error{Fault::data} when it can't be read.
std::string xxh3_128_of_file(const std::filesystem::path& path);

}  // namespace tune

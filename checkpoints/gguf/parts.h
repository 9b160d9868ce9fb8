#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace tune {

/// llama.cpp's name for a part of a model that is split over several files: "zephyr.gguf" -> part 2 of 3 is
/// "zephyr-00002-of-00003.gguf". number: from 1.
std::filesystem::path gguf_part_path(const std::filesystem::path& whole, std::size_t number, std::size_t count);

/// The other way, from any part; empty for what isn't named as one, or as another than `number` of `count`.
std::filesystem::path gguf_whole_path(const std::filesystem::path& part, std::size_t number, std::size_t count);

/// What lies there under the name of a part of `whole`, of whatever count; sorted.
std::vector<std::filesystem::path> existing_gguf_parts(const std::filesystem::path& whole);

/// Keys that say which part a file is, and of what.
inline constexpr const char* kPartNumberKey = "split.no";  // from 0
inline constexpr const char* kPartCountKey = "split.count";
inline constexpr const char* kPartTensorsKey = "split.tensors.count";  // of all parts

}  // namespace tune

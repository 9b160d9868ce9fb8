#pragma once
#include <cstddef>
#include <filesystem>
#include <span>

namespace tune {

/// True for what torch.save writes (a zip archive, or a bare pickle of protocol 2 to 5), whatever the file is called.
bool looks_like_pickle(std::span<const std::byte> bytes);

/// Error{Fault::data}: a pickle is a program, it is never opened; says how to convert the folder it lies in.
[[noreturn]] void refuse_pickle(const std::filesystem::path& file);

}  // namespace tune

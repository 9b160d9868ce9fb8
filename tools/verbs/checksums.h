#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace tune {

/// XXH3 (128 bits, as xxh128sum prints it) of a file, or of the stored bytes of a tensor in it.
struct Checksum {
  std::string name;  // of a file below the folder, or of a tensor
  std::uint64_t bytes = 0;
  std::string xxh3;
};

/// Reads everything once. Of a folder: each file in it, by name. Of a GGUF (all its parts), safetensors or ONNX file:
/// the files, then each tensor. Two copies of a thing have the same list; a damaged one differs where the damage is.
/// Error{Fault::data} for what can't be read.
std::vector<Checksum> checksums_of(const std::filesystem::path& path);

}  // namespace tune

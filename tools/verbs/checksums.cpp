#include "tools/verbs/checksums.h"

#include <algorithm>

#include "checkpoints/files/hash.h"
#include "checkpoints/gguf/gguf.h"
#include "checkpoints/gguf/parts.h"
#include "checkpoints/onnx/reader.h"
#include "checkpoints/safetensors/reader.h"

namespace tune {

namespace {

namespace fs = std::filesystem;

Checksum of_file(const fs::path& path, const std::string& name) {
  return {name, fs::file_size(path), xxh3_128_of_file(path)};
}

Checksum of_bytes(const std::string& name, std::span<const std::byte> bytes) {
  return {name, bytes.size(), xxh3_128(bytes)};
}

std::vector<Checksum> of_folder(const fs::path& folder) {
  std::vector<Checksum> checksums;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      checksums.push_back(of_file(entry.path(), fs::relative(entry.path(), folder).string()));
  std::sort(checksums.begin(), checksums.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return checksums;
}

}  // namespace

std::vector<Checksum> checksums_of(const fs::path& path) {
  if (fs::is_directory(path)) return of_folder(path);
  std::vector<Checksum> checksums;
  if (path.extension() == ".safetensors") {
    checksums.push_back(of_file(path, path.filename().string()));
    const SafetensorsFile file(path);
    for (const TensorInfo& tensor : file.tensors()) {
      checksums.push_back(of_bytes(tensor.name, file.bytes(tensor.name)));
      file.release(file.bytes(tensor.name));
    }
  } else if (path.extension() == ".onnx") {
    const OnnxFile file(path);
    for (const fs::path& part : file.files()) checksums.push_back(of_file(part, part.filename().string()));
    for (const OnnxStoredTensor& tensor : file.tensors()) checksums.push_back(of_bytes(tensor.name, tensor.bytes));
  } else {
    const GgufFile file(path);
    for (const fs::path& part : file.files()) checksums.push_back(of_file(part, part.filename().string()));
    for (const GgufTensor& tensor : file.tensors()) {
      checksums.push_back(of_bytes(tensor.name, tensor.bytes));
      file.release(tensor.bytes);
    }
  }
  return checksums;
}

}  // namespace tune

#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checkpoints/files/mapped_file.h"
#include "checkpoints/weights.h"

namespace tune {

/// One safetensors file, mapped. Move-only; spans stay valid when it is moved. Reading is thread-safe.
class SafetensorsFile {
 public:
  /// Error{Fault::data} when the file can't be read, is a pickle, or breaks any rule of the format.
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// In the order of their bytes in the file.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

  /// The tensor's entry, or nullptr.
  const TensorInfo* find(std::string_view name) const;

  /// The tensor's bytes; aligned only if the writer took care. Error{Fault::data} when the file has no such tensor or
  /// has become shorter.
  std::span<const std::byte> bytes(std::string_view name) const;

  /// As MappedFile::release().
  void release(std::span<const std::byte> part) const { file_.release(part); }

 private:
  MappedFile file_;
  std::map<std::string, std::string> metadata_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::span<const std::byte>> spans_;  // one a tensor
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace tune

#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "checkpoints/files/file_system.h"
#include "checkpoints/onnx/onnx.h"

namespace tune {

/// Where a tensor of so many bytes may begin, so that readers can map it: Windows maps at multiples of 64 KiB.
std::uint64_t onnx_alignment(std::uint64_t bytes);

/// The file beside a .onnx file that holds its large tensors, written from front to back; gaps are zeros. Nothing is
/// held. Error{Fault::running} when the disk refuses.
class OnnxDataWriter {
 public:
  explicit OnnxDataWriter(const std::filesystem::path& path) : file_(path) {}

  /// Where the next tensor, of `bytes`, will lie. TUNE_CHECK: the one before is complete.
  OnnxExternal begin(std::uint64_t bytes);

  /// Its next piece, no byte too many (TUNE_CHECK).
  void write(std::span<const std::byte> piece);

  /// TUNE_CHECK: the last tensor is complete. On disk when it returns.
  void close();

 private:
  OutputFile file_;
  std::uint64_t missing_bytes_ = 0;  // of the tensor that was begun
};

}  // namespace tune

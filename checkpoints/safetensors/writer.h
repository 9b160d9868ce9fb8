#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/files/file_system.h"
#include "checkpoints/weights.h"

namespace tune {

/// Writes one safetensors file from front to back, byte for byte as the reference writer does. Nothing is held: the
/// caller hands over one tensor after the other, in pieces of any size.
class SafetensorsWriter {
 public:
  /// Declares all tensors and writes the header. Error{Fault::running} when the disk refuses.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  /// The order in which write_tensor() expects them.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  /// The next piece of the next tensor, `name` (TUNE_CHECK: the order of tensors(), no byte too many).
  void write_tensor(std::string_view name, std::span<const std::byte> piece);

  /// TUNE_CHECK: every tensor is complete. On disk when it returns.
  void close();

 private:
  void skip_finished();

  std::vector<TensorInfo> tensors_;
  OutputFile file_;
  std::size_t current_ = 0;
  std::uint64_t missing_bytes_ = 0;  // of the current tensor
};

}  // namespace tune

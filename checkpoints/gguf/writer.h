#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "checkpoints/files/atomic_file.h"
#include "checkpoints/gguf/gguf.h"

namespace tune {

/// A metadata value in the type it has in the file.
using GgufValue = std::variant<std::uint16_t, std::int32_t, std::uint32_t, float, bool, std::string,
                               std::vector<std::string>, std::vector<float>, std::vector<std::int32_t>>;

/// In the order of the file.
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// A tensor to come; shape outermost first.
struct GgufTensorInfo {
  std::string name;
  GgufType type = GgufType::f32;
  std::vector<std::int64_t> shape;
};

/// Bytes of the stored tensor, without padding. TUNE_CHECK: whole blocks.
std::uint64_t stored_bytes(const GgufTensorInfo& tensor);

/// Writes one GGUF file from front to back. Nothing is held: the caller hands over one tensor after the other, in
/// pieces of any size. The file appears under its name when close() returns, whole.
class GgufWriter {
 public:
  /// Declares all tensors and writes the header. Error{Fault::running} when the disk refuses.
  /// TUNE_CHECK: no empty array, no name twice or of more than 63 bytes.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensorInfo> tensors);

  const std::vector<GgufTensorInfo>& tensors() const { return tensors_; }

  /// The next piece of the next tensor, `name` (TUNE_CHECK: the order of tensors(), no byte too many).
  void write_tensor(std::string_view name, std::span<const std::byte> piece);

  /// TUNE_CHECK: every tensor is complete. On disk when it returns.
  void close();

 private:
  void pad();

  std::vector<GgufTensorInfo> tensors_;
  AtomicFile file_;
  std::size_t current_ = 0;
  std::uint64_t missing_bytes_ = 0;  // of the current tensor
};

}  // namespace tune

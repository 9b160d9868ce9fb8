#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/weights.h"

namespace tune {

/// One tensor of a safetensors file; its bytes are [begin, end) of the file.
struct SafetensorsEntry {
  TensorInfo info;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// u64 header length, JSON header, tensor bytes: https://github.com/huggingface/safetensors#format
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
};

/// Size of one element of a dtype as safetensors spells it ("F32", "BF16"); 0 = not a dtype that we read.
std::uint64_t element_bytes(std::string_view dtype);

/// shape x element size. TUNE_CHECK: the dtype is known.
std::uint64_t byte_size(const TensorInfo& info);

/// Reads and checks the header of a whole file: whatever the reference reader refuses is refused here, too, and more
/// than a million tensors, 16 axes or 64 kB of name. From here on every entry lies inside the file.
/// Error{Fault::data} at `file` says what is wrong.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, const std::string& file);

/// The order in which the reference writer stores tensors: widest elements first, then by name. Each tensor is then
/// aligned to its own element size.
std::vector<TensorInfo> in_storage_order(std::vector<TensorInfo> tensors);

/// Length and JSON for tensors stored back to back in the given order, padded with spaces to a multiple of 8.
std::string format_safetensors_header(const std::vector<TensorInfo>& tensors,
                                      const std::map<std::string, std::string>& metadata);

}  // namespace tune

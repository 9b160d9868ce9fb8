#pragma once
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace tune {

/// A file's bytes from front to back, unpacked on the way.
class ByteReader {
 public:
  virtual ~ByteReader() = default;

  /// Puts what comes next at the buffer's beginning, at least a byte; returns how many, 0 at the end.
  /// Error{Fault::data} when the packed data is damaged or ends too early.
  virtual std::size_t read(std::span<char> buffer) = 0;
};

/// .gz (several members in a row too, zeros behind the last) and .zst (several frames too) are unpacked, any other name
/// is read as it is. Error{Fault::data} when it can't be opened or isn't a regular file.
std::unique_ptr<ByteReader> open_bytes(const std::filesystem::path& path);

/// Without .gz or .zst: "rows.jsonl.gz" -> "rows.jsonl".
std::filesystem::path without_packing(const std::filesystem::path& path);

}  // namespace tune

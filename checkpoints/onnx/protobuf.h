#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tune {

// Protocol Buffers' wire format, as far as ONNX uses it. Source: protobuf.dev/programming-guides/encoding.
// Not libprotobuf: SentencePiece brings a copy of its own, and two of them in one process crash.

/// One message, written field by field.
class ProtobufMessage {
 public:
  void integer(std::uint32_t field, std::int64_t value);
  void number(std::uint32_t field, float value);
  void text(std::uint32_t field, std::string_view value);  // string or bytes
  void message(std::uint32_t field, const ProtobufMessage& value) { text(field, value.bytes()); }

  const std::string& bytes() const { return bytes_; }

 private:
  void tag(std::uint32_t field, std::uint32_t wire_type);
  void varint(std::uint64_t value);

  std::string bytes_;
};

/// Walks over the fields of one message that somebody else wrote. Whatever doesn't fit into its bytes is
/// Error{Fault::data} at `file`; nothing is read outside of them.
class ProtobufReader {
 public:
  ProtobufReader(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  /// On to the next field; false at the end.
  bool next();
  std::uint32_t field() const { return field_; }

  /// The value of the field. Error{Fault::data} when it is stored as something else.
  std::int64_t integer() const;
  std::span<const std::byte> bytes() const;
  std::string text() const;
  ProtobufReader message() const { return {bytes(), file_}; }

  /// A repeated field of integers may be packed or not: what this occurrence holds.
  std::vector<std::int64_t> integers() const;

  [[noreturn]] void fail(const std::string& what) const;

 private:
  std::uint64_t varint();
  std::span<const std::byte> take(std::uint64_t count);

  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::size_t position_ = 0;
  std::uint32_t field_ = 0, wire_type_ = 0;
  std::uint64_t integer_ = 0;
  std::span<const std::byte> value_;
};

}  // namespace tune

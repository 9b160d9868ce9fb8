#include "checkpoints/onnx/protobuf.h"

#include <cstring>

#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

}  // namespace

void ProtobufMessage::tag(std::uint32_t field, std::uint32_t wire_type) { varint(field << 3 | wire_type); }

void ProtobufMessage::varint(std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
  bytes_.push_back(static_cast<char>(value));
}

void ProtobufMessage::integer(std::uint32_t field, std::int64_t value) {
  tag(field, kVarint);
  varint(static_cast<std::uint64_t>(value));
}

void ProtobufMessage::number(std::uint32_t field, float value) {
  tag(field, kFixed32);
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void ProtobufMessage::text(std::uint32_t field, std::string_view value) {
  tag(field, kBytes);
  varint(value.size());
  bytes_.append(value);
}

void ProtobufReader::fail(const std::string& what) const {
  throw Error{Fault::data, {file_}, "is no ONNX model, or a damaged one: " + what, "write it or fetch it again"};
}

std::uint64_t ProtobufReader::varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = std::to_integer<std::uint64_t>(take(1).front());
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail("a number of more than 64 bits");
}

std::span<const std::byte> ProtobufReader::take(std::uint64_t count) {
  if (count > bytes_.size() - position_) fail("it ends in the middle of a field");
  const auto part = bytes_.subspan(position_, count);
  position_ += count;
  return part;
}

bool ProtobufReader::next() {
  if (position_ == bytes_.size()) return false;
  const std::uint64_t tag = varint();
  wire_type_ = tag & 7;
  field_ = static_cast<std::uint32_t>(tag >> 3);
  if (tag >> 3 == 0 || tag >> 3 > (1u << 29) - 1) fail("a field without a number");
  value_ = {};
  if (wire_type_ == kVarint)
    integer_ = varint();
  else if (wire_type_ == kBytes)
    value_ = take(varint());
  else if (wire_type_ == kFixed32 || wire_type_ == kFixed64)
    value_ = take(wire_type_ == kFixed32 ? 4 : 8);
  else
    fail("a field of an unknown kind");
  return true;
}

std::int64_t ProtobufReader::integer() const {
  if (wire_type_ != kVarint) fail("a field is no integer");
  return static_cast<std::int64_t>(integer_);
}

std::span<const std::byte> ProtobufReader::bytes() const {
  if (wire_type_ != kBytes) fail("a field is no text or message");
  return value_;
}

std::string ProtobufReader::text() const {
  const auto part = bytes();
  return {reinterpret_cast<const char*>(part.data()), part.size()};
}

std::vector<std::int64_t> ProtobufReader::integers() const {
  if (wire_type_ != kBytes) return {integer()};
  std::vector<std::int64_t> values;
  for (ProtobufReader packed(value_, file_); packed.position_ < packed.bytes_.size();)
    values.push_back(static_cast<std::int64_t>(packed.varint()));
  return values;
}

}  // namespace tune

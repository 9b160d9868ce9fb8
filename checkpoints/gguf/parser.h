#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "checkpoints/gguf/gguf.h"

namespace tune {

/// Walks through a file's header front to back and fills a GgufFile; every read is checked against what is left.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file), bytes_(file.file_.bytes()) {}

  /// Error{Fault::data}.
  void parse();

 private:
  std::uint64_t left() const { return bytes_.size() - position_; }

  template <typename T>
  T scalar() {
    if (left() < sizeof(T)) file_.fail("is cut off inside its header");
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  void head();
  std::string string();
  GgufFile::Number number(GgufValueType type);
  void pair();
  GgufFile::Value array(const std::string& key);
  std::uint64_t tensor();  // returns its offset
  std::uint64_t data_bytes(const GgufTensor& tensor) const;
  void place_data(const std::vector<std::uint64_t>& offsets, std::uint64_t alignment);

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
  std::uint64_t tensor_count_ = 0, pair_count_ = 0;
};

}  // namespace tune

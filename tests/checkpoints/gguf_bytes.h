#pragma once
#include <cstring>
#include <string>
#include <vector>

namespace tune {

/// A GGUF file put together by hand, so that each part can be wrong.
class GgufBytes {
 public:
  template <typename T>
  GgufBytes& scalar(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& u32(std::uint32_t value) { return scalar(value); }
  GgufBytes& u64(std::uint64_t value) { return scalar(value); }
  GgufBytes& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  GgufBytes& text(const std::string& value) { return u64(value.size()).raw(value); }

  GgufBytes& head(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) {
    return raw("GGUF").u32(version).u64(tensors).u64(pairs);
  }
  GgufBytes& pair_u32(const std::string& key, std::uint32_t value) { return text(key).u32(4).u32(value); }
  GgufBytes& pair_text(const std::string& key, const std::string& value) { return text(key).u32(8).text(value); }
  /// shape innermost first, as in the file
  GgufBytes& tensor(const std::string& name, const std::vector<std::int64_t>& shape, std::uint32_t type = 0,
                    std::uint64_t offset = 0) {
    text(name).u32(static_cast<std::uint32_t>(shape.size()));
    for (const std::int64_t extent : shape) scalar(extent);
    return u32(type).u64(offset);
  }
  GgufBytes& data(std::size_t bytes, std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    bytes_.resize(bytes_.size() + bytes, '\x3c');
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace tune

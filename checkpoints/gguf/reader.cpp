#include <fmt/format.h>

#include <cstring>
#include <set>

#include "checkpoints/gguf/gguf.h"
#include "recipes/schema/error.h"

namespace tune {

const GgufTypeTraits* traits_of(GgufType type) {
  static const std::map<GgufType, GgufTypeTraits> kTypes = {
      {GgufType::f32, {"F32", 1, 4}},    {GgufType::f16, {"F16", 1, 2}},    {GgufType::bf16, {"BF16", 1, 2}},
      {GgufType::q4_0, {"Q4_0", 32, 18}}, {GgufType::q4_1, {"Q4_1", 32, 20}}, {GgufType::q8_0, {"Q8_0", 32, 34}}};
  const auto it = kTypes.find(type);
  return it == kTypes.end() ? nullptr : &it->second;
}

namespace {

constexpr std::uint64_t kMaxTensors = 1 << 20, kMaxPairs = 1 << 20, kMaxNameBytes = 64, kMaxAlignment = 1 << 16;
constexpr std::uint32_t kMaxDimensions = 4;

enum ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean_value, string_value, array_value, u64, i64, f64 };

}  // namespace

// Walks through the header front to back; every read is checked against what is left.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file), bytes_(file.file_.bytes()) {}

  void parse() {
    if (bytes_.size() < 24 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) file_.fail("is not a GGUF file");
    position_ = 4;
    if (const auto version = scalar<std::uint32_t>(); version != 3 && version != 2)
      file_.fail(fmt::format("is GGUF version {}; 2 and 3 are read", version));
    const auto tensors = scalar<std::uint64_t>(), pairs = scalar<std::uint64_t>();
    if (tensors > kMaxTensors || pairs > kMaxPairs) file_.fail(fmt::format("claims {} tensors and {} keys", tensors, pairs));
    for (std::uint64_t i = 0; i < pairs; ++i) pair();
    const std::int64_t alignment = file_.integer("general.alignment", 32);
    if (alignment <= 0 || static_cast<std::uint64_t>(alignment) > kMaxAlignment || (alignment & (alignment - 1)) != 0)
      file_.fail(fmt::format("general.alignment is {}; it must be a power of two up to 65536", alignment));
    std::vector<std::uint64_t> offsets;
    std::set<std::string> names;
    for (std::uint64_t i = 0; i < tensors; ++i) {
      offsets.push_back(tensor());
      if (!names.insert(file_.tensors_.back().name).second) file_.fail(fmt::format("tensor {} is there twice", file_.tensors_.back().name));
    }
    place_data(offsets, static_cast<std::uint64_t>(alignment));
  }

 private:
  std::uint64_t left() const { return bytes_.size() - position_; }

  template <typename T>
  T scalar() {
    if (left() < sizeof(T)) file_.fail("ends inside its header");
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }

  std::string string() {
    const auto length = scalar<std::uint64_t>();
    if (length > left()) file_.fail(fmt::format("a text of {} bytes; {} are left", length, left()));
    std::string text(reinterpret_cast<const char*>(bytes_.data() + position_), length);
    position_ += length;
    return text;
  }

  GgufNumber number(std::uint32_t type) {
    switch (type) {
      case u8: return std::uint64_t{scalar<std::uint8_t>()};
      case i8: return std::int64_t{scalar<std::int8_t>()};
      case u16: return std::uint64_t{scalar<std::uint16_t>()};
      case i16: return std::int64_t{scalar<std::int16_t>()};
      case u32: return std::uint64_t{scalar<std::uint32_t>()};
      case i32: return std::int64_t{scalar<std::int32_t>()};
      case f32: return double{scalar<float>()};
      case boolean_value: return scalar<std::uint8_t>() != 0;
      case u64: return scalar<std::uint64_t>();
      case i64: return scalar<std::int64_t>();
      case f64: return scalar<double>();
      default: file_.fail(fmt::format("a value of unknown type {}", type));
    }
  }

  void pair() {
    const std::string key = string();
    if (key.empty() || file_.pairs_.contains(key)) file_.fail(key.empty() ? "an empty key" : fmt::format("key {} is there twice", key));
    const auto type = scalar<std::uint32_t>();
    if (type == string_value) {
      file_.pairs_[key] = string();
    } else if (type == array_value) {
      array(key);
    } else {
      file_.pairs_[key] = number(type);
    }
  }

  void array(const std::string& key) {
    const auto type = scalar<std::uint32_t>();
    const auto count = scalar<std::uint64_t>();
    if (type == array_value) file_.fail(fmt::format("key {} is an array of arrays", key));
    // the smallest element takes one byte, a text eight
    if (count > left() / (type == string_value ? 8 : 1)) file_.fail(fmt::format("key {} has {} elements; {} bytes are left", key, count, left()));
    if (type == string_value) {
      std::vector<std::string> texts;
      for (std::uint64_t i = 0; i < count; ++i) texts.push_back(string());
      file_.pairs_[key] = std::move(texts);
      return;
    }
    std::vector<GgufNumber> numbers;
    for (std::uint64_t i = 0; i < count; ++i) numbers.push_back(number(type));
    file_.pairs_[key] = std::move(numbers);
  }

  std::uint64_t tensor() {
    GgufTensor tensor;
    tensor.name = string();
    if (tensor.name.empty() || tensor.name.size() >= kMaxNameBytes) file_.fail("a tensor name of 0 or more than 63 bytes");
    const auto dimensions = scalar<std::uint32_t>();
    if (dimensions == 0 || dimensions > kMaxDimensions) file_.fail(fmt::format("tensor {} has {} dimensions", tensor.name, dimensions));
    for (std::uint32_t i = 0; i < dimensions; ++i) tensor.shape.insert(tensor.shape.begin(), scalar<std::int64_t>());
    tensor.type = static_cast<GgufType>(scalar<std::uint32_t>());
    if (traits_of(tensor.type) == nullptr)
      file_.fail(fmt::format("tensor {} has element type {}; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read", tensor.name,
                             static_cast<std::uint32_t>(tensor.type)));
    file_.tensors_.push_back(std::move(tensor));
    return scalar<std::uint64_t>();
  }

  std::uint64_t data_bytes(const GgufTensor& tensor) const {
    const GgufTypeTraits& traits = *traits_of(tensor.type);
    std::uint64_t elements = 1;
    for (const std::int64_t extent : tensor.shape)
      if (extent <= 0 || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(extent), &elements))
        file_.fail(fmt::format("tensor {} has an impossible shape", tensor.name));
    if (tensor.shape.back() % traits.block != 0)
      file_.fail(fmt::format("tensor {} has rows of {} elements; {} packs {}", tensor.name, tensor.shape.back(), traits.name, traits.block));
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(elements / static_cast<std::uint64_t>(traits.block), static_cast<std::uint64_t>(traits.block_bytes), &bytes))
      file_.fail(fmt::format("tensor {} has an impossible size", tensor.name));
    return bytes;
  }

  void place_data(const std::vector<std::uint64_t>& offsets, std::uint64_t alignment) {
    const auto padded = [&](std::uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
    const std::uint64_t start = padded(position_);
    std::uint64_t expected = 0;
    for (std::size_t i = 0; i < offsets.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      const std::uint64_t size = data_bytes(tensor);
      if (offsets[i] != expected) file_.fail(fmt::format("tensor {} is at {}; it must be at {}", tensor.name, offsets[i], expected));
      if (start > bytes_.size() || expected > bytes_.size() - start || size > bytes_.size() - start - expected)
        file_.fail(fmt::format("ends inside tensor {}: the file is cut off", tensor.name));
      tensor.bytes = bytes_.subspan(start + expected, size);
      expected += padded(size);
    }
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
};

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) { GgufParser(*this).parse(); }

void GgufFile::fail(const std::string& what) const {
  throw Error{Fault::data, {path().string()}, what, "fetch or convert the file again"};
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  for (const GgufTensor& tensor : tensors_)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

const GgufFile::Value* GgufFile::value(const std::string& key) const {
  const auto it = pairs_.find(key);
  return it == pairs_.end() ? nullptr : &it->second;
}

bool GgufFile::has(const std::string& key) const { return value(key) != nullptr; }

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> keys;
  for (const auto& [key, unused] : pairs_) keys.push_back(key);
  return keys;
}

std::string GgufFile::text(const std::string& key, std::optional<std::string> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !std::holds_alternative<std::string>(*found)) fail(fmt::format("has no text {}", key));
  return std::get<std::string>(*found);
}

std::int64_t GgufFile::integer(const std::string& key, std::optional<std::int64_t> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found != nullptr && std::holds_alternative<GgufNumber>(*found)) {
    const GgufNumber& number = std::get<GgufNumber>(*found);
    if (const auto* n = std::get_if<std::int64_t>(&number)) return *n;
    if (const auto* n = std::get_if<std::uint64_t>(&number); n != nullptr && *n <= INT64_MAX) return static_cast<std::int64_t>(*n);
  }
  fail(fmt::format("has no integer {}", key));
}

double GgufFile::real(const std::string& key, std::optional<double> fallback) const {
  const Value* found = value(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !std::holds_alternative<GgufNumber>(*found)) fail(fmt::format("has no number {}", key));
  return std::visit([](auto n) { return static_cast<double>(n); }, std::get<GgufNumber>(*found));
}

bool GgufFile::boolean(const std::string& key, bool fallback) const {
  const Value* found = value(key);
  if (found == nullptr) return fallback;
  if (!std::holds_alternative<GgufNumber>(*found)) fail(fmt::format("{} is not a yes or no", key));
  return std::visit([](auto n) { return n != 0; }, std::get<GgufNumber>(*found));
}

std::vector<std::string> GgufFile::texts(const std::string& key) const {
  const Value* found = value(key);
  if (found == nullptr || !std::holds_alternative<std::vector<std::string>>(*found)) fail(fmt::format("has no list of texts {}", key));
  return std::get<std::vector<std::string>>(*found);
}

std::vector<double> GgufFile::numbers(const std::string& key) const {
  const Value* found = value(key);
  if (found == nullptr || !std::holds_alternative<std::vector<GgufNumber>>(*found)) fail(fmt::format("has no list of numbers {}", key));
  std::vector<double> result;
  for (const GgufNumber& number : std::get<std::vector<GgufNumber>>(*found))
    result.push_back(std::visit([](auto n) { return static_cast<double>(n); }, number));
  return result;
}

}  // namespace tune

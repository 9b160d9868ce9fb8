#include "checkpoints/gguf/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "checkpoints/safetensors/pickle.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

constexpr std::uint64_t kMaxTensors = 1 << 20, kMaxPairs = 1 << 16, kMaxElements = 1 << 24;
constexpr std::uint64_t kMaxKeyBytes = 65535, kMaxNameBytes = 63, kMaxAlignment = 1 << 16;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kLeastPairBytes = 8 + 1 + 4 + 1, kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

/// A stranger's text in a message: short, and without what would steer a terminal.
std::string shown(std::string_view text) {
  std::string result(text.substr(0, 80));
  std::replace_if(
      result.begin(), result.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return result;
}

/// The least bytes that one element takes; 0 = not a type.
std::uint64_t least_bytes(GgufValueType type) {
  using enum GgufValueType;
  switch (type) {
    case u8:
    case i8:
    case boolean:
      return 1;
    case u16:
    case i16:
      return 2;
    case u32:
    case i32:
    case f32:
      return 4;
    case string:
    case u64:
    case i64:
    case f64:
      return 8;
    case array:
      break;
  }
  return 0;
}

}  // namespace

void GgufParser::parse() {
  head();
  for (std::uint64_t i = 0; i < pair_count_; ++i) pair();
  const std::int64_t alignment = file_.integer("general.alignment", kGgufAlignment);
  if (alignment <= 0 || static_cast<std::uint64_t>(alignment) > kMaxAlignment || (alignment & (alignment - 1)) != 0)
    file_.fail(fmt::format("has general.alignment {}; it must be a power of two up to {}", alignment, kMaxAlignment));
  std::vector<std::uint64_t> offsets;
  std::set<std::string> names;
  for (std::uint64_t i = 0; i < tensor_count_; ++i) {
    offsets.push_back(tensor());
    const std::string& name = file_.tensors_.back().name;
    if (!names.insert(name).second) file_.fail(fmt::format("has the tensor {} twice", shown(name)));
  }
  place_data(offsets, static_cast<std::uint64_t>(alignment));
}

void GgufParser::head() {
  if (looks_like_pickle(bytes_)) refuse_pickle(file_.path());
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) file_.fail("is not a GGUF file");
  position_ = 4;
  const auto version = scalar<std::uint32_t>();
  if (version != 2 && version != kGgufVersion)
    file_.fail(version > 0xffff ? "is a big-endian GGUF file; little-endian ones are read"
                                : fmt::format("is GGUF version {}; 2 and 3 are read", version));
  tensor_count_ = scalar<std::uint64_t>();
  pair_count_ = scalar<std::uint64_t>();
  if (pair_count_ > kMaxPairs || pair_count_ > left() / kLeastPairBytes)
    file_.fail(fmt::format("says that it has {} metadata keys; {} bytes follow", pair_count_, left()));
  if (tensor_count_ > kMaxTensors || tensor_count_ > left() / kLeastTensorBytes)
    file_.fail(fmt::format("says that it has {} tensors; {} bytes follow", tensor_count_, left()));
}

std::string GgufParser::string() {
  const auto length = scalar<std::uint64_t>();
  if (length > left()) file_.fail(fmt::format("has a text of {} bytes where {} are left", length, left()));
  std::string text(reinterpret_cast<const char*>(bytes_.data() + position_), length);
  position_ += length;
  return text;
}

GgufFile::Number GgufParser::number(GgufValueType type) {
  using enum GgufValueType;
  switch (type) {
    case u8:
      return std::uint64_t{scalar<std::uint8_t>()};
    case i8:
      return std::int64_t{scalar<std::int8_t>()};
    case u16:
      return std::uint64_t{scalar<std::uint16_t>()};
    case i16:
      return std::int64_t{scalar<std::int16_t>()};
    case u32:
      return std::uint64_t{scalar<std::uint32_t>()};
    case i32:
      return std::int64_t{scalar<std::int32_t>()};
    case f32:
      return double{scalar<float>()};
    case boolean:
      return scalar<std::uint8_t>() != 0;
    case u64:
      return scalar<std::uint64_t>();
    case i64:
      return scalar<std::int64_t>();
    case f64:
      return scalar<double>();
    default:
      file_.fail(fmt::format("has a metadata value of unknown type {}", static_cast<std::uint32_t>(type)));
  }
}

void GgufParser::pair() {
  const std::string key = string();
  if (key.empty() || key.size() > kMaxKeyBytes) file_.fail(fmt::format("has a metadata key of {} bytes", key.size()));
  if (file_.pairs_.contains(key)) file_.fail(fmt::format("has the metadata key {} twice", shown(key)));
  const auto type = static_cast<GgufValueType>(scalar<std::uint32_t>());
  if (type == GgufValueType::string)
    file_.pairs_[key] = string();
  else if (type == GgufValueType::array)
    file_.pairs_[key] = array(key);
  else
    file_.pairs_[key] = number(type);
}

GgufFile::Value GgufParser::array(const std::string& key) {
  const auto type = static_cast<GgufValueType>(scalar<std::uint32_t>());
  const auto count = scalar<std::uint64_t>();
  const std::uint64_t least = least_bytes(type);
  if (least == 0)
    file_.fail(
        fmt::format("has the array {} of elements of unknown type {}", shown(key), static_cast<std::uint32_t>(type)));
  if (count > kMaxElements || count > left() / least)
    file_.fail(fmt::format("has the array {} of {} elements where {} bytes are left", shown(key), count, left()));
  if (type == GgufValueType::string) {
    std::vector<std::string> texts;
    texts.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) texts.push_back(string());
    return texts;
  }
  std::vector<GgufFile::Number> numbers;
  numbers.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) numbers.push_back(number(type));
  return numbers;
}

std::uint64_t GgufParser::tensor() {
  GgufTensor tensor;
  tensor.name = string();
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes)
    file_.fail(fmt::format("has a tensor name of {} bytes; 1 to {} are allowed", tensor.name.size(), kMaxNameBytes));
  const auto dimensions = scalar<std::uint32_t>();
  if (dimensions == 0 || dimensions > kMaxDimensions)
    file_.fail(fmt::format("has the tensor {} with {} dimensions; 1 to {} are allowed", shown(tensor.name), dimensions,
                           kMaxDimensions));
  for (std::uint32_t i = 0; i < dimensions; ++i) tensor.shape.push_back(scalar<std::int64_t>());
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  tensor.type = static_cast<GgufType>(scalar<std::uint32_t>());
  if (traits_of(tensor.type) == nullptr)
    file_.fail(fmt::format("has the tensor {} of element type {}, which ggml doesn't have", shown(tensor.name),
                           static_cast<std::uint32_t>(tensor.type)));
  file_.tensors_.push_back(std::move(tensor));
  return scalar<std::uint64_t>();
}

std::uint64_t GgufParser::data_bytes(const GgufTensor& tensor) const {
  const GgufTypeTraits& traits = *traits_of(tensor.type);
  std::uint64_t elements = 1, bytes = 0;
  for (const std::int64_t extent : tensor.shape)
    if (extent <= 0 || __builtin_mul_overflow(elements, static_cast<std::uint64_t>(extent), &elements))
      file_.fail(fmt::format("has the tensor {} of an impossible shape", shown(tensor.name)));
  if (tensor.shape.back() % traits.block != 0)
    file_.fail(fmt::format("has the tensor {} with rows of {} elements; {} needs a multiple of {}", shown(tensor.name),
                           tensor.shape.back(), traits.name, traits.block));
  if (__builtin_mul_overflow(elements / static_cast<std::uint64_t>(traits.block),
                             static_cast<std::uint64_t>(traits.block_bytes), &bytes))
    file_.fail(fmt::format("has the tensor {} of an impossible size", shown(tensor.name)));
  return bytes;
}

void GgufParser::place_data(const std::vector<std::uint64_t>& offsets, std::uint64_t alignment) {
  const auto padded = [&](std::uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
  const std::uint64_t start = padded(position_);
  if (start > bytes_.size() && !offsets.empty()) file_.fail("is cut off behind its header");
  std::uint64_t expected = 0;  // start + expected lies inside the file
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    GgufTensor& tensor = file_.tensors_[i];
    const std::uint64_t size = data_bytes(tensor), available = bytes_.size() - start - expected;
    if (offsets[i] != expected)
      file_.fail(
          fmt::format("has the tensor {} at offset {}; it must be at {}", shown(tensor.name), offsets[i], expected));
    if (size > available || padded(size) > available)
      file_.fail(fmt::format("is cut off inside the tensor {}: {} bytes are needed, {} are left", shown(tensor.name),
                             size, available));
    tensor.bytes = bytes_.subspan(start + expected, size);
    expected += padded(size);
  }
}

}  // namespace tune

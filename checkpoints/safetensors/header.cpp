#include "checkpoints/safetensors/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "checkpoints/safetensors/header_sax.h"
#include "recipes/schema/error.h"

namespace tune {

static_assert(std::endian::native == std::endian::little, "tensor bytes are little-endian on disk and in memory");

namespace {

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

struct DtypeRow {
  std::string_view name;
  std::uint64_t bytes;
};

// the reference writer's order. Its 4 and 6 bit types are left out: nothing that we read has them
constexpr std::array<DtypeRow, 19> kDtypes = {{
    {"U64", 8},     {"I64", 8},     {"F64", 8}, {"C64", 8}, {"F32", 4},         {"U32", 4},         {"I32", 4},
    {"BF16", 2},    {"F16", 2},     {"U16", 2}, {"I16", 2}, {"F8_E5M2FNUZ", 1}, {"F8_E4M3FNUZ", 1}, {"F8_E8M0", 1},
    {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},  {"U8", 1},  {"BOOL", 1},
}};

const DtypeRow* find_dtype(std::string_view dtype) {
  const auto row = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeRow& r) { return r.name == dtype; });
  return row == kDtypes.end() ? nullptr : &*row;
}

/// shape x element size, or a refusal when that is beyond 2^63.
std::uint64_t checked_byte_size(const TensorInfo& info) {
  std::int64_t bytes = static_cast<std::int64_t>(element_bytes(info.dtype));
  if (bytes == 0) throw std::runtime_error(fmt::format("tensor \"{}\" has dtype \"{}\"", info.name, info.dtype));
  for (const std::int64_t extent : info.shape)
    if (__builtin_mul_overflow(bytes, extent, &bytes))
      throw std::runtime_error(fmt::format("the shape of tensor \"{}\" is too large", info.name));
  return static_cast<std::uint64_t>(bytes);
}

/// Tensors must follow each other without a gap or an overlap, from the first byte of the data to the last.
void check_layout(std::vector<SafetensorsEntry>& entries, std::uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : entries) {
    const std::string& name = entry.info.name;
    if (entry.begin != expected)
      throw std::runtime_error(
          fmt::format("tensor \"{}\" begins at {}, the one before it ends at {}", name, entry.begin, expected));
    if (entry.end < entry.begin) throw std::runtime_error(fmt::format("tensor \"{}\" ends before it begins", name));
    if (entry.end - entry.begin != checked_byte_size(entry.info))
      throw std::runtime_error(fmt::format("tensor \"{}\" has {} bytes, its shape and dtype need {}", name,
                                           entry.end - entry.begin, checked_byte_size(entry.info)));
    expected = entry.end;
  }
  if (expected != data_bytes)
    throw std::runtime_error(fmt::format("its tensors take {} bytes, {} follow the header", expected, data_bytes));
}

SafetensorsHeader parse(std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) throw std::runtime_error(fmt::format("it is only {} bytes long", bytes.size()));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) throw std::runtime_error(fmt::format("its header would be {} bytes long", length));
  if (length > bytes.size() - kLengthBytes)
    throw std::runtime_error(
        fmt::format("its header is {} bytes long, {} are there", length, bytes.size() - kLengthBytes));
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!text.starts_with('{')) throw std::runtime_error("its header is not JSON");

  SafetensorsHeader header = parse_header_json(text);
  const std::uint64_t data_begin = kLengthBytes + length;
  check_layout(header.entries, bytes.size() - data_begin);
  for (SafetensorsEntry& entry : header.entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return header;
}

}  // namespace

std::uint64_t element_bytes(std::string_view dtype) {
  const DtypeRow* row = find_dtype(dtype);
  return row == nullptr ? 0 : row->bytes;
}

std::uint64_t byte_size(const TensorInfo& info) {
  TUNE_CHECK(element_bytes(info.dtype) > 0, "{} has dtype {}", info.name, info.dtype);
  return static_cast<std::uint64_t>(element_count(info)) * element_bytes(info.dtype);
}

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> bytes, const std::string& file) {
  try {
    return parse(bytes);
  } catch (const std::runtime_error& error) {
    throw Error{Fault::data,
                {file},
                fmt::format("is not a whole safetensors file: {}", error.what()),
                "the file is damaged or incomplete: copy or download it again"};
  }
}

std::vector<TensorInfo> in_storage_order(std::vector<TensorInfo> tensors) {
  for (const TensorInfo& info : tensors)
    TUNE_CHECK(find_dtype(info.dtype) != nullptr, "{} has dtype {}", info.name, info.dtype);
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::make_tuple(find_dtype(a.dtype), std::string_view(a.name)) <
           std::make_tuple(find_dtype(b.dtype), std::string_view(b.name));
  });
  return tensors;
}

std::string format_safetensors_header(const std::vector<TensorInfo>& tensors,
                                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json;
  if (!metadata.empty()) json["__metadata__"] = metadata;
  // ordered_json looks keys up one by one; the text is put together by hand so that 10^5 tensors stay cheap
  std::string text = json.empty() ? "{" : json.dump();
  if (!json.empty()) text.pop_back();
  std::uint64_t offset = 0;
  for (const TensorInfo& info : tensors) {
    const std::uint64_t end = offset + byte_size(info);
    const nlohmann::ordered_json entry = {
        {"dtype", info.dtype}, {"shape", info.shape}, {"data_offsets", {offset, end}}};
    if (text.size() > 1) text += ',';
    text += nlohmann::json(info.name).dump() + ':' + entry.dump();
    offset = end;
  }
  text += '}';
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');

  const std::uint64_t length = text.size();
  std::string header(kLengthBytes, '\0');
  std::memcpy(header.data(), &length, kLengthBytes);
  return header + text;
}

}  // namespace tune

#include "checkpoints/huggingface/convert.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "recipes/schema/error.h"

namespace tune {

namespace {

float from_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40;
  return static_cast<std::uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

float keep(float value) { return value; }

template <typename Stored, typename Wanted, float (*Load)(Stored), Wanted (*Store)(float)>
void convert_all(const std::byte* source, std::byte* destination, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, source + i * sizeof(Stored), sizeof(Stored));
    const Wanted wanted = Store(Load(stored));
    std::memcpy(destination + i * sizeof(Wanted), &wanted, sizeof(Wanted));
  }
}

template <typename Stored, float (*Load)(Stored)>
void convert_from(const std::byte* source, Dtype to, std::byte* destination, std::size_t count) {
  switch (to) {
    case Dtype::fp32:
      return convert_all<Stored, float, Load, keep>(source, destination, count);
    case Dtype::bf16:
      return convert_all<Stored, std::uint16_t, Load, to_bf16>(source, destination, count);
    case Dtype::fp16:
      return convert_all<Stored, std::uint16_t, Load, to_fp16>(source, destination, count);
  }
}

}  // namespace

std::size_t element_bytes(Dtype dtype) { return dtype == Dtype::fp32 ? 4 : 2; }

double overflow_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32:
      return INFINITY;
    case Dtype::bf16:
      return 0x1.FFp127;
    case Dtype::fp16:
      return 65520;
  }
  return 0;
}

std::string_view dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::fp32:
      return "F32";
    case Dtype::bf16:
      return "BF16";
    case Dtype::fp16:
      return "F16";
  }
  return "";
}

bool is_convertible(std::string_view dtype) { return dtype == "F32" || dtype == "F16" || dtype == "BF16"; }

void convert_elements(std::string_view from, std::span<const std::byte> source, Dtype to,
                      std::span<std::byte> destination) {
  TUNE_CHECK(is_convertible(from), "dtype {}", from);
  const std::size_t count = source.size() / (from == "F32" ? 4 : 2);
  TUNE_CHECK(destination.size() == count * element_bytes(to), "{} bytes for {} elements", destination.size(), count);
  if (source.empty()) return;
  if (from == dtype_name(to))
    std::memcpy(destination.data(), source.data(), source.size());
  else if (from == "F32")
    convert_from<float, keep>(source.data(), to, destination.data(), count);
  else if (from == "BF16")
    convert_from<std::uint16_t, from_bf16>(source.data(), to, destination.data(), count);
  else
    convert_from<std::uint16_t, from_fp16>(source.data(), to, destination.data(), count);
}

}  // namespace tune

#include "checkpoints/gguf/blocks/blocks.h"

#include <cstring>

#include "checkpoints/gguf/blocks/formats.h"
#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {

namespace {

template <void (*Decode)(const std::byte*, float*)>
void decode_all(const GgufTypeTraits& traits, std::span<const std::byte> bytes, std::span<float> values) {
  const auto block = static_cast<std::size_t>(traits.block), block_bytes = static_cast<std::size_t>(traits.block_bytes);
  for (std::size_t i = 0; i < values.size() / block; ++i)
    Decode(bytes.data() + i * block_bytes, values.data() + i * block);
}

void check_sizes(const GgufTypeTraits& traits, std::size_t bytes, std::size_t values) {
  const auto block = static_cast<std::size_t>(traits.block), block_bytes = static_cast<std::size_t>(traits.block_bytes);
  TUNE_CHECK(values % block == 0 && values / block * block_bytes == bytes, "{} bytes for {} values of {}", bytes,
             values, traits.name);
}

}  // namespace

float half_at(const std::byte* bytes) {
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return from_fp16(bits);
}

void put_half(float value, std::byte* bytes) {
  convert_elements("F32", std::as_bytes(std::span(&value, 1)), Dtype::fp16, {bytes, 2});
}

void dequantize(GgufType type, std::span<const std::byte> bytes, std::span<float> values) {
  const GgufTypeTraits& traits = *traits_of(type);
  check_sizes(traits, bytes.size(), values.size());
  switch (type) {
    case GgufType::q8_0:
      return decode_all<dequantize_q8_0>(traits, bytes, values);
    case GgufType::q4_0:
      return decode_all<dequantize_q4_0>(traits, bytes, values);
    case GgufType::q4_1:
      return decode_all<dequantize_q4_1>(traits, bytes, values);
    case GgufType::q5_0:
      return decode_all<dequantize_q5_0>(traits, bytes, values);
    case GgufType::q5_1:
      return decode_all<dequantize_q5_1>(traits, bytes, values);
    case GgufType::q4_k:
      return decode_all<dequantize_q4_k>(traits, bytes, values);
    case GgufType::q5_k:
      return decode_all<dequantize_q5_k>(traits, bytes, values);
    case GgufType::q6_k:
      return decode_all<dequantize_q6_k>(traits, bytes, values);
    default:
      return convert_elements(traits.name, bytes, Dtype::fp32, std::as_writable_bytes(values));
  }
}

double overflow_of(GgufType type) {
  const double half = overflow_of(Dtype::fp16);
  switch (type) {
    case GgufType::f16:
      return half;
    case GgufType::bf16:
      return overflow_of(Dtype::bf16);
    case GgufType::q4_0:  // the others' limits are those of their scales, for the least favourable block
      return 7 * half;
    case GgufType::q5_0:
      return 15 * half;
    case GgufType::q4_1:
    case GgufType::q5_1:
      return half;
    case GgufType::q8_0:
      return 127 * half;
    case GgufType::q4_k:
    case GgufType::q5_k:
      return 63 * half;
    case GgufType::q6_k:
      return 31 * 127 * half;
    default:
      return overflow_of(Dtype::fp32);
  }
}

void quantize(GgufType type, std::span<const float> values, std::span<std::byte> bytes,
              std::span<const float> importance) {
  check_sizes(*traits_of(type), bytes.size(), values.size());
  Rows rows{.values = values.data(), .rows = 1, .columns = values.size(), .importance = nullptr};
  if (!importance.empty()) {
    TUNE_CHECK(values.size() % importance.size() == 0 &&
                   importance.size() % static_cast<std::size_t>(traits_of(type)->block) == 0,
               "importance of {} columns for {} values", importance.size(), values.size());
    rows = {values.data(), values.size() / importance.size(), importance.size(), importance.data()};
  }
  switch (type) {
    case GgufType::f32:
      return convert_elements("F32", std::as_bytes(values), Dtype::fp32, bytes);
    case GgufType::f16:
      return convert_elements("F32", std::as_bytes(values), Dtype::fp16, bytes);
    case GgufType::bf16:
      return convert_elements("F32", std::as_bytes(values), Dtype::bf16, bytes);
    case GgufType::q4_0:
      return quantize_q4_0(rows, bytes.data());
    case GgufType::q4_1:
      return quantize_q4_1(rows, bytes.data());
    case GgufType::q5_0:
      return quantize_q5_0(rows, bytes.data());
    case GgufType::q5_1:
      return quantize_q5_1(rows, bytes.data());
    case GgufType::q8_0:
      return quantize_q8_0(rows, bytes.data());
    case GgufType::q4_k:
      return quantize_q4_k(rows, bytes.data());
    case GgufType::q5_k:
      return quantize_q5_k(rows, bytes.data());
    case GgufType::q6_k:
      return quantize_q6_k(rows, bytes.data());
  }
}

}  // namespace tune

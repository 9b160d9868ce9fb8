#include "checkpoints/gguf/blocks/blocks.h"

#include <cmath>
#include <cstring>

#include "checkpoints/huggingface/convert.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr std::size_t kBlock = 32;

float half_at(const std::byte* bytes) {
  float value;
  convert_elements("F16", {bytes, 2}, Dtype::fp32, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

void put_half(float value, std::byte* bytes) {
  convert_elements("F32", std::as_bytes(std::span(&value, 1)), Dtype::fp16, {bytes, 2});
}

// Q8_0: half scale d, 32 signed bytes q; value = d q.
void dequantize_q8_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlock; ++i) values[i] = d * static_cast<float>(static_cast<std::int8_t>(block[2 + i]));
}

// The inverse of the unrounded scale is what llama.cpp multiplies with; halves round away from zero.
void quantize_q8_0(const float* values, std::byte* block) {
  float largest = 0;
  for (std::size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float d = largest / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
  put_half(d, block);
  for (std::size_t i = 0; i < kBlock; ++i)
    block[2 + i] = static_cast<std::byte>(static_cast<std::int8_t>(std::roundf(values[i] * inverse)));
}

// Q4_0: half d, 16 bytes: low nibbles are elements 0-15, high nibbles 16-31; value = (q - 8) d.
void dequantize_q4_0(const std::byte* block, float* values) {
  const float d = half_at(block);
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    const auto byte = static_cast<unsigned>(block[2 + i]);
    values[i] = (static_cast<float>(byte & 15u) - 8.0f) * d;
    values[i + kBlock / 2] = (static_cast<float>(byte >> 4) - 8.0f) * d;
  }
}

// Q4_1: half d, half m, nibbles as in Q4_0; value = q d + m.
void dequantize_q4_1(const std::byte* block, float* values) {
  const float d = half_at(block), m = half_at(block + 2);
  for (std::size_t i = 0; i < kBlock / 2; ++i) {
    const auto byte = static_cast<unsigned>(block[4 + i]);
    values[i] = static_cast<float>(byte & 15u) * d + m;
    values[i + kBlock / 2] = static_cast<float>(byte >> 4) * d + m;
  }
}

}  // namespace

void dequantize(GgufType type, std::span<const std::byte> bytes, std::span<float> values) {
  const GgufTypeTraits& traits = *traits_of(type);
  const std::size_t blocks = values.size() / static_cast<std::size_t>(traits.block);
  TUNE_CHECK(blocks * static_cast<std::size_t>(traits.block_bytes) == bytes.size(), "{} bytes for {} values", bytes.size(), values.size());
  if (traits.block == 1) return convert_elements(traits.name, bytes, Dtype::fp32, std::as_writable_bytes(values));
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::byte* block = bytes.data() + i * static_cast<std::size_t>(traits.block_bytes);
    float* out = values.data() + i * kBlock;
    if (type == GgufType::q8_0) dequantize_q8_0(block, out);
    if (type == GgufType::q4_0) dequantize_q4_0(block, out);
    if (type == GgufType::q4_1) dequantize_q4_1(block, out);
  }
}

void quantize(GgufType type, std::span<const float> values, std::span<std::byte> bytes) {
  switch (type) {
    case GgufType::f32: std::memcpy(bytes.data(), values.data(), values.size_bytes()); return;
    case GgufType::f16: return convert_elements("F32", std::as_bytes(values), Dtype::fp16, bytes);
    case GgufType::bf16: return convert_elements("F32", std::as_bytes(values), Dtype::bf16, bytes);
    case GgufType::q8_0:
      TUNE_CHECK(values.size() % kBlock == 0 && bytes.size() == values.size() / kBlock * 34, "{} values, {} bytes", values.size(), bytes.size());
      for (std::size_t i = 0; i < values.size() / kBlock; ++i) quantize_q8_0(values.data() + i * kBlock, bytes.data() + i * 34);
      return;
    default: TUNE_CHECK(false, "{} is not written", traits_of(type)->name);
  }
}

}  // namespace tune

#include "checkpoints/quantize/nf4.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "checkpoints/cpu_clones.h"
#include "checkpoints/fp16.h"
#include "checkpoints/quantize/dynamic_map.h"
#include "recipes/schema/error.h"

namespace tune {
namespace {

constexpr std::int64_t kAlignment = 64;
static_assert(kNf4ScaleBlock == kDynamicBlock);

std::int64_t up(std::int64_t value, std::int64_t multiple) { return (value + multiple - 1) / multiple; }

std::int64_t aligned(std::int64_t bytes) { return up(bytes, kAlignment) * kAlignment; }

// The code of a value is the number of midpoints below it.
TUNE_CPU_CLONES float quantize_block(const float* values, std::int64_t count, std::uint8_t* codes) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float inverse = 1.0f / std::max(largest, kLeastScale);
  std::int32_t below[kNf4Block] = {};
  for (std::size_t k = 0; k + 1 < std::size(kNf4); ++k) {
    const float midpoint = (kNf4[k] + kNf4[k + 1]) / 2.0f;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) below[i] += values[i] * inverse > midpoint ? 1 : 0;
  }
  for (std::int64_t i = count; i < kNf4Block; ++i) below[i] = 0;
#pragma omp simd
  for (std::int64_t i = 0; i < kNf4Block / 2; ++i)
    codes[i] = static_cast<std::uint8_t>(below[2 * i] << 4 | below[2 * i + 1]);
  return largest;
}

struct Scales {
  Scales(const Nf4Layout& layout, const std::byte* bytes)
      : codes(reinterpret_cast<const std::uint8_t*>(bytes + layout.scale_codes)),
        scales(reinterpret_cast<const float*>(bytes + layout.scales)) {}
  TUNE_INLINE float of(std::int64_t block) const {
    const float product = map.values[codes[block]] * scales[1 + block / kNf4ScaleBlock];
    return product + scales[0];
  }
  const DynamicMap& map = dynamic_map(true);
  const std::uint8_t* codes;
  const float* scales;
};

TUNE_INLINE std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// A block takes sixteen values: they are multiplied and rounded first, and looked up then.
TUNE_INLINE void fill_table(float scale, float (&table)[16]) {
#pragma omp simd
  for (int i = 0; i < 16; ++i) table[i] = kNf4[i] * scale;
}
// Values of two bytes, by their bits.
enum Bf16 : std::uint16_t {};
enum Fp16 : std::uint16_t {};
TUNE_INLINE void fill_table(float scale, Bf16 (&table)[16]) {
#pragma omp simd
  for (int i = 0; i < 16; ++i) table[i] = Bf16{to_bf16(kNf4[i] * scale)};
}
TUNE_INLINE void fill_table(float scale, Fp16 (&table)[16]) {
#pragma omp simd
  for (int i = 0; i < 16; ++i) table[i] = Fp16{to_fp16(kNf4[i] * scale)};
}

TUNE_INLINE void look_up(const std::uint8_t* codes, const float (&table)[16], float* out) {
  for (std::int64_t i = 0; i < kNf4Block / 2; ++i) {
    out[2 * i] = table[codes[i] >> 4];
    out[2 * i + 1] = table[codes[i] & 15];
  }
}

using Bytes = std::uint8_t __attribute__((vector_size(16)));

TUNE_INLINE Bytes interleaved_low(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
TUNE_INLINE Bytes interleaved_high(Bytes a, Bytes b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// table[which[i]] for each i: one instruction, which GCC alone has a name for.
TUNE_INLINE Bytes chosen(Bytes table, Bytes which) {
#ifdef __clang__
  Bytes result;
  for (int i = 0; i < 16; ++i) result[i] = table[which[i]];
  return result;
#else
  return __builtin_shuffle(table, which);
#endif
}

// Sixteen bytes at a time: the low halves of the sixteen results are one vector, the high halves another, and a code
// chooses from each.
template <typename TwoBytes>
TUNE_INLINE void look_up(const std::uint8_t* codes, const TwoBytes (&table)[16], TwoBytes* out) {
  static_assert(std::endian::native == std::endian::little);
  Bytes halves[2];
  std::memcpy(halves, table, sizeof halves);
  const Bytes low = __builtin_shufflevector(halves[0], halves[1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                            30),
              high = __builtin_shufflevector(halves[0], halves[1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27,
                                             29, 31);
  for (std::int64_t i = 0; i < kNf4Block / 2; i += 16) {
    Bytes packed;
    std::memcpy(&packed, codes + i, sizeof packed);
    const Bytes first = packed >> 4, second = packed & 15;
    const Bytes which[2] = {interleaved_low(first, second), interleaved_high(first, second)};
    Bytes words[4];
    for (int k = 0; k < 2; ++k) {
      const Bytes bytes_low = chosen(low, which[k]), bytes_high = chosen(high, which[k]);
      words[2 * k] = interleaved_low(bytes_low, bytes_high);
      words[2 * k + 1] = interleaved_high(bytes_low, bytes_high);
    }
    std::memcpy(out + 2 * i, words, sizeof words);
  }
}

template <typename T>
TUNE_INLINE void dequantize_all(const Scales& scales, const std::uint8_t* codes, std::int64_t first, std::int64_t last,
                                T* out) {
  for (std::int64_t block = first; block < last; ++block, out += kNf4Block) {
    T table[16];
    fill_table(scales.of(block), table);
    look_up(codes + block * kNf4Block / 2, table, out);
  }
}

// Whole blocks.
TUNE_CPU_CLONES void dequantize_blocks(const Scales& scales, const std::uint8_t* codes, std::int64_t first,
                                       std::int64_t last, float* out) {
  dequantize_all(scales, codes, first, last, out);
}
TUNE_CPU_CLONES void dequantize_blocks(const Scales& scales, const std::uint8_t* codes, std::int64_t first,
                                       std::int64_t last, Bf16* out) {
  dequantize_all(scales, codes, first, last, out);
}
TUNE_CPU_CLONES void dequantize_blocks(const Scales& scales, const std::uint8_t* codes, std::int64_t first,
                                       std::int64_t last, Fp16* out) {
  dequantize_all(scales, codes, first, last, out);
}

template <typename T>
void dequantize(const Nf4Layout& layout, const std::byte* bytes, std::int64_t first, std::int64_t count, T* out) {
  const Scales scales(layout, bytes);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(bytes);
  const std::int64_t end = first + count;
  const auto some = [&](std::int64_t to) {  // of one block
    T table[16];
    fill_table(scales.of(first / kNf4Block), table);
    for (; first < to; ++first) *out++ = table[first % 2 == 0 ? codes[first / 2] >> 4 : codes[first / 2] & 15];
  };
  if (first % kNf4Block != 0) some(std::min(end, up(first, kNf4Block) * kNf4Block));
  const std::int64_t blocks = (end - first) / kNf4Block;
  dequantize_blocks(scales, codes, first / kNf4Block, first / kNf4Block + blocks, out);
  first += blocks * kNf4Block;
  out += blocks * kNf4Block;
  if (first < end) some(end);
}

}  // namespace

Nf4Layout::Nf4Layout(std::int64_t count)
    : values(count),
      blocks(up(count, kNf4Block)),
      scale_blocks(up(blocks, kNf4ScaleBlock)),
      scale_codes(blocks * kNf4Block / 2),
      scales(aligned(scale_codes + blocks)),
      bytes(aligned(scales + (1 + scale_blocks) * static_cast<std::int64_t>(sizeof(float)))) {}

Nf4Quantizer::Nf4Quantizer(std::int64_t values, std::span<std::byte> destination)
    : layout_(values), bytes_(destination.data()) {
  TUNE_CHECK(static_cast<std::int64_t>(destination.size()) == layout_.bytes, "{} bytes for {}", destination.size(),
             layout_.bytes);
  scales_.reserve(static_cast<std::size_t>(layout_.blocks));
}

void Nf4Quantizer::add(std::span<const float> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  TUNE_CHECK(done_ % kNf4Block == 0 && done_ + count <= layout_.values, "{} values behind {} of {}", count, done_,
             layout_.values);
  auto* codes = reinterpret_cast<std::uint8_t*>(bytes_) + done_ / 2;
  for (std::int64_t i = 0; i < count; i += kNf4Block, codes += kNf4Block / 2)
    scales_.push_back(quantize_block(values.data() + i, std::min(kNf4Block, count - i), codes));
  done_ += count;
}

void Nf4Quantizer::finish() {
  TUNE_CHECK(done_ == layout_.values, "{} of {} values", done_, layout_.values);
  std::memset(bytes_ + layout_.scale_codes, 0, static_cast<std::size_t>(layout_.bytes - layout_.scale_codes));
  double sum = 0;
  for (const float scale : scales_) sum += scale;
  const auto mean = static_cast<float>(sum / static_cast<double>(scales_.size()));
  auto* codes = reinterpret_cast<std::uint8_t*>(bytes_ + layout_.scale_codes);
  auto* stored = reinterpret_cast<float*>(bytes_ + layout_.scales);
  *stored++ = mean;
  for (std::size_t first = 0; first < scales_.size(); first += kNf4ScaleBlock) {
    const std::span block =
        std::span(scales_).subspan(first, std::min<std::size_t>(kNf4ScaleBlock, scales_.size() - first));
    float largest = 0;
    for (float& scale : block) largest = std::max(largest, std::fabs(scale -= mean));
    const float inverse = 1.0f / std::max(largest, kLeastScale);
    for (const float scale : block) *codes++ = dynamic_map(true).nearest(std::clamp(scale * inverse, -1.0f, 1.0f));
    *stored++ = largest;
  }
}

void dequantize_nf4(const Nf4Layout& layout, const std::byte* bytes, std::int64_t first, std::int64_t count,
                    Dtype dtype, std::byte* destination) {
  switch (dtype) {
    case Dtype::fp32:
      return dequantize(layout, bytes, first, count, reinterpret_cast<float*>(destination));
    case Dtype::bf16:
      return dequantize(layout, bytes, first, count, reinterpret_cast<Bf16*>(destination));
    case Dtype::fp16:
      return dequantize(layout, bytes, first, count, reinterpret_cast<Fp16*>(destination));
  }
}

}  // namespace tune

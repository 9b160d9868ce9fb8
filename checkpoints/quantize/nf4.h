#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "recipes/schema/recipe.h"

namespace tune {

/// NF4 with double quantisation (Dettmers et al. 2023, section 3), by bitsandbytes' rules: the values of a matrix, row
/// by row, in blocks of 64; of each the largest magnitude, its scale, and 4-bit codes of the values divided by it. The
/// scales, less their mean, are codes of the 8-bit dynamic map in blocks of 256. A value is then
///   kNf4[code] * (map[scale code] * scale of scales + mean of scales), the product rounded to the wanted type.
/// The mean is summed in double, one after the other, so that it doesn't depend on how many threads there are: where
/// bitsandbytes' mean differs in its last bit, so do its values.
inline constexpr std::int64_t kNf4Block = 64, kNf4ScaleBlock = 256;
inline constexpr float kNf4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

/// Where the parts of a matrix of so many values lie in its bytes; each begins at a multiple of 64.
struct Nf4Layout {
  explicit Nf4Layout(std::int64_t values);

  std::int64_t values, blocks, scale_blocks;
  std::int64_t scale_codes;  // [blocks] uint8; before them the codes, two a byte, the first in the high half
  std::int64_t scales;       // [1 + scale_blocks] fp32: the mean of the scales, then the scales of the scales
  std::int64_t bytes;        // of all, a multiple of 64
};

/// Quantises a matrix that comes piece by piece: nothing of it is held but what a block needs.
class Nf4Quantizer {
 public:
  /// destination: Nf4Layout(values).bytes, which are written by finish() at the latest.
  Nf4Quantizer(std::int64_t values, std::span<std::byte> destination);

  /// The next values, finite; a multiple of kNf4Block of them, except at the end.
  void add(std::span<const float> values);
  void finish();

 private:
  Nf4Layout layout_;
  std::byte* bytes_;
  std::int64_t done_ = 0;
  std::vector<float> scales_;
};

/// Values [first, first + count) of a matrix of the wanted type, into as many bytes. Thread-safe.
void dequantize_nf4(const Nf4Layout& layout, const std::byte* bytes, std::int64_t first, std::int64_t count,
                    Dtype dtype, std::byte* destination);

}  // namespace tune

#include "train/kernels/small_gemm.h"

#include <algorithm>
#include <utility>

#include "train/kernels/vector_math.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tune {
namespace {

// Any processor: four rows of b at a time into a row of c, which stays in the first-level cache.
TUNE_CPU_CLONES void portable(const SmallGemm& g) {
  for (std::int64_t i = 0; i < g.m; ++i) {
    float* c = g.c + i * g.c_row;
    if (!g.add) std::fill_n(c, g.n, 0.0f);
    std::int64_t p = 0;
    for (; p + 4 <= g.k; p += 4) {
      const float* a = g.a + i * g.a_row + p * g.a_column;
      const float a0 = a[0], a1 = a[g.a_column], a2 = a[2 * g.a_column], a3 = a[3 * g.a_column];
      const float *b0 = g.b + p * g.b_row, *b1 = b0 + g.b_row, *b2 = b1 + g.b_row, *b3 = b2 + g.b_row;
#pragma omp simd
      for (std::int64_t j = 0; j < g.n; ++j) c[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
    }
    for (; p < g.k; ++p) {
      const float a = g.a[i * g.a_row + p * g.a_column];
      const float* b = g.b + p * g.b_row;
#pragma omp simd
      for (std::int64_t j = 0; j < g.n; ++j) c[j] += a * b[j];
    }
  }
}

#if defined(__x86_64__)
// A tile of c stays in Rows x Vectors registers (6 x 4 of the 32) while k passes by.
template <int Rows, int Vectors>
__attribute__((target("avx512f"))) void tile(const SmallGemm& g, std::int64_t row, std::int64_t column) {
  __m512 sum[Rows][Vectors];
  float* c = g.c + row * g.c_row + column;
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v)
      sum[i][v] = g.add ? _mm512_loadu_ps(c + i * g.c_row + 16 * v) : _mm512_setzero_ps();
  const float *a = g.a + row * g.a_row, *b = g.b + column;
  for (std::int64_t p = 0; p < g.k; ++p, a += g.a_column, b += g.b_row) {
    __m512 loaded[Vectors];
    for (int v = 0; v < Vectors; ++v) loaded[v] = _mm512_loadu_ps(b + 16 * v);
    for (int i = 0; i < Rows; ++i) {
      const __m512 factor = _mm512_set1_ps(a[i * g.a_row]);
      for (int v = 0; v < Vectors; ++v) sum[i][v] = _mm512_fmadd_ps(factor, loaded[v], sum[i][v]);
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) _mm512_storeu_ps(c + i * g.c_row + 16 * v, sum[i][v]);
}

using Tile = void (*)(const SmallGemm&, std::int64_t row, std::int64_t column);
constexpr int kTileRows = 6, kTileVectors = 4;

template <int... Index>
constexpr auto all_tiles(std::integer_sequence<int, Index...>) {
  struct Table {
    Tile tiles[sizeof...(Index)];
  };
  return Table{{tile<Index / kTileVectors + 1, Index % kTileVectors + 1>...}};
}
constexpr auto kTiles = all_tiles(std::make_integer_sequence<int, kTileRows * kTileVectors>());

void avx512(const SmallGemm& g) {
  for (std::int64_t column = 0; column < g.n; column += 16 * kTileVectors) {
    const std::int64_t vectors = std::min<std::int64_t>(kTileVectors, (g.n - column) / 16);
    for (std::int64_t row = 0; row < g.m; row += kTileRows) {
      const std::int64_t rows = std::min<std::int64_t>(kTileRows, g.m - row);
      kTiles.tiles[(rows - 1) * kTileVectors + vectors - 1](g, row, column);
    }
  }
}
#endif

}  // namespace

void small_gemm(const SmallGemm& gemm) {
#if defined(__x86_64__)
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  if (has_avx512) return avx512(gemm);
#endif
  portable(gemm);
}

}  // namespace tune

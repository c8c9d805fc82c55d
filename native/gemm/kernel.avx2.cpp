// AVX2 + FMA + F16C: sixteen rows are two vectors.
#include <immintrin.h>

#include "gemm/kernel.h"

namespace trivet {
namespace {

struct Avx2 {
  // 16 registers: two sums per row of the block, two vectors of weights and one of activations.
  static constexpr int kFloatRows = 6;
  static constexpr int kByteRows = 4;

  struct F32x16 {
    __m256 low, high;
  };
  struct I32x16 {
    __m256i low, high;
  };

  static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32x16 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static I32x16 broadcast(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
  static F32x16 load(const float* p) { return {_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
  static void store(float* p, F32x16 v) {
    _mm256_store_ps(p, v.low);
    _mm256_store_ps(p + 8, v.high);
  }
  static F32x16 load_f16(const std::uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
  }
  static void store_bf16_pair(const std::uint32_t* pairs, float* first, float* second) {
    const __m256i mask = _mm256_set1_epi32(-65536);
    for (int i = 0; i < 16; i += 8) {
      const __m256i pair = _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs + i));
      _mm256_store_ps(first + i, _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16)));
      _mm256_store_ps(second + i, _mm256_castsi256_ps(_mm256_and_si256(pair, mask)));
    }
  }
  static F32x16 add(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static F32x16 mul(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  static F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  static I32x16 sub_shifted(I32x16 a, I32x16 b) {
    return {_mm256_sub_epi32(a.low, _mm256_slli_epi32(b.low, 5)), _mm256_sub_epi32(a.high, _mm256_slli_epi32(b.high, 5))};
  }

  static __m256i load_bytes(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static __m256i broadcast_dword(const void* p) {
    std::int32_t value;
    __builtin_memcpy(&value, p, sizeof value);
    return _mm256_set1_epi32(value);
  }

  template <int M, int Quads, int Chain>
  static void dot_bytes(const std::uint8_t (*w)[64], const std::int16_t* scales, const std::int8_t* x,
                        std::size_t stride, I32x16* total) {
    const __m256i scale_low = load_bytes(scales), scale_high = load_bytes(scales + 16);
#pragma GCC unroll 8
    for (int first = 0; first < Quads; first += Chain) {
      __m256i low[M], high[M];
#pragma GCC unroll 8
      for (int v = first; v < first + Chain; ++v) {
        const __m256i w_low = load_bytes(w[v]), w_high = load_bytes(w[v] + 32);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const __m256i quad = broadcast_dword(x + i * stride + 4 * v);
          const __m256i products_low = _mm256_maddubs_epi16(w_low, quad);
          const __m256i products_high = _mm256_maddubs_epi16(w_high, quad);
          low[i] = v == first ? products_low : _mm256_add_epi16(low[i], products_low);
          high[i] = v == first ? products_high : _mm256_add_epi16(high[i], products_high);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(low[i], scale_low));
        total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(high[i], scale_high));
      }
    }
  }

  template <int M, int Pairs>
  static void dot_words(const std::int16_t (*w)[32], const std::int16_t* x, std::size_t stride, I32x16* total) {
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const __m256i w_low = load_bytes(w[p]), w_high = load_bytes(w[p] + 16);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const __m256i pair = broadcast_dword(reinterpret_cast<const std::byte*>(x + 2 * p) + i * stride);
        total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(w_low, pair));
        total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(w_high, pair));
      }
    }
  }
};

}  // namespace

extern const Kernels kAvx2Kernels = make_kernels<Avx2>();

}  // namespace trivet

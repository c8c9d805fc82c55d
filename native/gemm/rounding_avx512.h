// How AVX-512 rounds the floats of a step. See quantize.h.
#pragma once

#include "avx512.h"
#include "gemm/activations.h"

namespace trivet {
namespace {

struct Avx512Rounding {
  static void peaks(const float* x, std::int32_t (&bits)[kStep / 32]) {
    __m512i of_block[kStep / 32];
#pragma GCC unroll 8
    for (int b = 0; b < kStep / 32; ++b) {
      of_block[b] = _mm512_max_epi32(magnitudes(x + 32 * b), magnitudes(x + 32 * b + 16));
    }
    // Lanes 4 k and 4 k + 1 get the peaks of blocks k and k + 4.
    const __m512i low = largest_quarters(of_block[0], of_block[1], of_block[2], of_block[3]),
                  high = largest_quarters(of_block[4], of_block[5], of_block[6], of_block[7]);
    const __m512i pairs =
        _mm512_max_epi32(_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high));
    const __m512i peaks = _mm512_max_epi32(pairs, _mm512_unpackhi_epi64(pairs, pairs));
    const __m512i order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 13, 9, 5, 1, 12, 8, 4, 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits),
                        _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, peaks)));
  }

  static void round(const float* x, const float (&factor)[kStep / 32], std::int8_t* q) {
#pragma GCC unroll 4
    for (int i = 0; i < kStep; i += 64) {
      const __m512 first = _mm512_set1_ps(factor[i / 32]), last = _mm512_set1_ps(factor[i / 32 + 1]);
      const __m512i low = _mm512_packs_epi32(nearest(x + i, first), nearest(x + i + 16, first)),
                    high = _mm512_packs_epi32(nearest(x + i + 32, last), nearest(x + i + 48, last));
      // A lane of four bytes comes from one vector; packing has put those of the four beside each other.
      const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
      _mm512_storeu_si512(q + i, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
    }
  }

  static void sum_sixteens(const std::int8_t* q, std::int16_t (&sums)[2][kStep / 32]) {
    const auto fours = [&](int i) { return sums_of_four(q + 64 * i); };
    const auto pairs = [](__m512i a, __m512i b) {
      return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    };
    const __m512i first = pairs(fours(0), fours(1)), last = pairs(fours(2), fours(3));
    // Lane 4 k + j has the sum of the sixteen k of the four that are the 64 numbered j.
    const __m512i totals =
        _mm512_add_epi32(_mm512_unpacklo_epi64(first, last), _mm512_unpackhi_epi64(first, last));
    const __m512i order = _mm512_set_epi32(15, 7, 14, 6, 13, 5, 12, 4, 11, 3, 10, 2, 9, 1, 8, 0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums),
                        _mm512_cvtepi32_epi16(_mm512_permutexvar_epi32(order, totals)));
  }

  static void sum_eights(const std::int8_t* q, std::int16_t (&sums)[kStep / 8]) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (int i = 0; i < kStep / 8; i += 16) {
      const __m512i first = sums_of_four(q + 8 * i), last = sums_of_four(q + 8 * i + 64);
      const __m512i eights = _mm512_add_epi32(_mm512_permutex2var_epi32(first, even, last),
                                              _mm512_permutex2var_epi32(first, odd, last));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), _mm512_cvtepi32_epi16(eights));
    }
  }

 private:
  // Of 64 bytes.
  static __m512i sums_of_four(const std::int8_t* q) {
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(q));
  }

  static __m512i magnitudes(const float* x) {
    return _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7fffffff));
  }

  static __m512i nearest(const float* x, __m512 factor) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), factor));
  }

  // Quarter k has the maxima of the quarters of v[k].
  static __m512i largest_quarters(__m512i a, __m512i b, __m512i c, __m512i d) {
    const auto halves = [](__m512i v, __m512i w) {
      return _mm512_max_epi32(_mm512_shuffle_i32x4(v, w, 0x44), _mm512_shuffle_i32x4(v, w, 0xee));
    };
    const __m512i first = halves(a, b), last = halves(c, d);
    return _mm512_max_epi32(_mm512_shuffle_i32x4(first, last, 0x88), _mm512_shuffle_i32x4(first, last, 0xdd));
  }
};

}  // namespace
}  // namespace trivet

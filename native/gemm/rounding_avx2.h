// How AVX2 rounds the floats of a step. See quantize.h.
#pragma once

#include <immintrin.h>

#include "gemm/activations.h"

namespace trivet {
namespace {

struct Avx2Rounding {
  static void peaks(const float* x, std::int32_t (&bits)[kStep / 32]) {
    const auto larger = [](__m256i a, __m256i b) { return _mm256_max_epi32(a, b); };
    const auto of_block = [&](int b) {
      const float* values = x + 32 * b;
      return larger(larger(magnitudes(values), magnitudes(values + 8)),
                    larger(magnitudes(values + 16), magnitudes(values + 24)));
    };
    const __m256i low = over_fours(of_block(0), of_block(1), of_block(2), of_block(3), larger),
                  high = over_fours(of_block(4), of_block(5), of_block(6), of_block(7), larger);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bits), larger(_mm256_permute2x128_si256(low, high, 0x20),
                                                                 _mm256_permute2x128_si256(low, high, 0x31)));
  }

  static void round(const float* x, const float (&factor)[kStep / 32], std::int8_t* q) {
#pragma GCC unroll 8
    for (int i = 0; i < kStep; i += 32) {
      const __m256 of_block = _mm256_set1_ps(factor[i / 32]);
      const __m256i low = _mm256_packs_epi32(nearest(x + i, of_block), nearest(x + i + 8, of_block)),
                    high = _mm256_packs_epi32(nearest(x + i + 16, of_block), nearest(x + i + 24, of_block));
      // A lane of four bytes comes from one vector; packing has put those of the four beside each other.
      const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i),
                          _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
    }
  }

  static void sum_sixteens(const std::int8_t* q, std::int16_t (&sums)[2][kStep / 32]) {
    const auto fours = [&](int b) { return sums_of_four(q + 32 * b); };
    const auto sum = [](__m256i a, __m256i b) { return _mm256_add_epi32(a, b); };
    // Halves are the first and the last sixteens of blocks.
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums),
                        _mm256_packs_epi32(over_fours(fours(0), fours(1), fours(2), fours(3), sum),
                                           over_fours(fours(4), fours(5), fours(6), fours(7), sum)));
  }

  static void sum_eights(const std::int8_t* q, std::int16_t (&sums)[kStep / 8]) {
    for (int i = 0; i < kStep / 8; i += 16) {
      const auto pairs = [&](int k) {
        const std::int8_t* block = q + 8 * i + k;
        return _mm256_hadd_epi32(sums_of_four(block), sums_of_four(block + 32));
      };
      // Halves have two sums of each of the four blocks.
      const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
      const __m256i halves = _mm256_packs_epi32(pairs(0), pairs(64));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), _mm256_permutevar8x32_epi32(halves, order));
    }
  }

 private:
  // Of 32 bytes.
  static __m256i sums_of_four(const std::int8_t* q) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    return _mm256_madd_epi16(_mm256_set1_epi16(1), _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes));
  }

  static __m256i magnitudes(const float* x) {
    return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                            _mm256_set1_epi32(0x7fffffff));
  }

  static __m256i nearest(const float* x, __m256 factor) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor));
  }

  // Lane k of each half: `join` over the four lanes of that half of vector k.
  template <class Join>
  static __m256i over_fours(__m256i a, __m256i b, __m256i c, __m256i d, const Join& join) {
    const __m256i first = join(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)),
                  last = join(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return join(_mm256_unpacklo_epi64(first, last), _mm256_unpackhi_epi64(first, last));
  }
};

}  // namespace
}  // namespace trivet

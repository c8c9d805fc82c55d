// The vectors of AVX-512 with VNNI, BF16 and VBMI. See kernel.h.
#pragma once

#include "gemm/vectors_avx512.h"

namespace trivet {
namespace {

// Where in 64 bits the bytes begin that Avx512Bf16::fields takes; by the first one.
struct FieldBits {
  alignas(64) std::uint8_t from[64][64];
};

template <int kStep>
constexpr FieldBits kFields = [] {
  FieldBits bits = {};
  for (int first = 0; first < 64; ++first) {
    for (int i = 0; i < 64; ++i) bits.from[first][i] = (i / 4 * 32 + first + kStep * (i % 4)) & 63;
  }
  return bits;
}();

struct Avx512Bf16 : Avx512 {
  // sum + the products of two bfloat16 in each lane.
  static F32x16 dot_bf16(F32x16 w, I32x16 x, F32x16 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }

  // Byte j of each lane: eight bits of the lane from first + kStep * j on. What lies outside of the lane is
  // of no meaning.
  template <int kStep>
  static Bytes fields(I32x16 lanes, int first) {
    return _mm512_multishift_epi64_epi8(load_vector(kFields<kStep>.from[first & 63]), lanes);
  }

  // The bits `mask` of a, the others of b.
  static Bytes select(Bytes mask, Bytes a, Bytes b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }
  template <int kMask>
  static Bytes choose(Bytes a, Bytes b) {
    return select(splat(kMask), a, b);
  }

  // Entries of a table of 64 bytes, whose numbers are the low six bits.
  static Bytes entries(const std::array<std::uint8_t, 64>& table, Bytes numbers) {
    return _mm512_permutexvar_epi8(numbers, _mm512_loadu_si512(table.data()));
  }
  // Of a larger one: `low` has the low bytes of the numbers, `high` their other bits.
  template <int kCount>
  static Bytes entries(const std::uint8_t* table, Bytes low, Bytes high) {
    if constexpr (kCount == 128) {
      return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), low, _mm512_loadu_si512(table + 64));
    } else {
      const __mmask64 in_second =
          kCount == 256 ? _mm512_movepi8_mask(low) : _mm512_test_epi8_mask(high, splat(kCount >> 9));
      return _mm512_mask_blend_epi8(in_second, entries<kCount / 2>(table, low, high),
                                    entries<kCount / 2>(table + kCount / 2, low, high));
    }
  }
};

}  // namespace
}  // namespace trivet

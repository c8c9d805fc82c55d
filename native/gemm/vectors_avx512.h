// The vectors of AVX-512 with VNNI: sixteen rows are one vector. See kernel.h.
#pragma once

#include <array>

#include "avx512.h"
#include "gemm/kernel.h"
#include "gemm/rounding_avx512.h"

namespace trivet {
namespace {

struct Avx512 {
  // Of 32 registers one holds a weight; activations are broadcast from memory. Integer kernels have a sum
  // over the step, a total and a sum over the run for each row.
#ifndef TRIVET_EMULATE
  static constexpr int kFloatRows = 8;
  static constexpr int kByteRows = 8;
#else  // what SIMDe makes of larger blocks takes very long to compile
  static constexpr int kFloatRows = 2;
  static constexpr int kByteRows = 2;
#endif
  static constexpr bool kDirectBytes = true;
  static constexpr int kDirectBlocks = 64;

  using Rounding = Avx512Rounding;
  using F32x16 = __m512;
  using I32x16 = __m512i;

  // To the L2 cache, which may wait for more of memory at a time than the L1 cache, then to that. A compiler
  // that knew these as prefetches would gather them in a burst, as they depend on nothing.
  static void prefetch(const void* p) {
    constexpr int kFar = 32 << 10, kNear = 4096;
    const auto* bytes = static_cast<const char*>(p);
    asm volatile("prefetcht1 %0" : : "m"(bytes[kFar]));
    asm volatile("prefetcht0 %0" : : "m"(bytes[kNear]));
  }

  static F32x16 zero() { return _mm512_setzero_ps(); }
  static F32x16 broadcast(float value) { return _mm512_set1_ps(value); }
  static I32x16 broadcast(std::int32_t value) { return _mm512_set1_epi32(value); }
  static F32x16 load(const float* p) { return _mm512_load_ps(p); }
  static void store(float* p, F32x16 v) { _mm512_store_ps(p, v); }
  static void store_anywhere(float* p, F32x16 v) { _mm512_storeu_ps(p, v); }
  static F32x16 load_f16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Of float16 in the low halves of lanes.
  static F32x16 from_f16(I32x16 lanes) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lanes)); }
  // Of 16 pairs of bfloat16.
  static F32x16 load_bf16_even(const std::uint32_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(load_vector(p), 16));
  }
  static F32x16 load_bf16_odd(const std::uint32_t* p) {
    return _mm512_castsi512_ps(_mm512_and_si512(load_vector(p), _mm512_set1_epi32(-65536)));
  }
  static F32x16 add(F32x16 a, F32x16 b) { return _mm512_add_ps(a, b); }
  static F32x16 mul(F32x16 a, F32x16 b) { return _mm512_mul_ps(a, b); }
  static F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fmadd_ps(a, b, c); }
  static F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) { return _mm512_fnmadd_ps(a, b, c); }
  static F32x16 to_float(I32x16 a) { return _mm512_cvtepi32_ps(a); }
  static I32x16 izero() { return _mm512_setzero_si512(); }
  static I32x16 add(I32x16 a, I32x16 b) { return _mm512_add_epi32(a, b); }
  static I32x16 sub(I32x16 a, I32x16 b) { return _mm512_sub_epi32(a, b); }
  static I32x16 shift_left(I32x16 a, int bits) { return _mm512_slli_epi32(a, bits); }
  static I32x16 shift_right(I32x16 a, int bits) { return _mm512_srli_epi32(a, bits); }
  static I32x16 shift_right_signed(I32x16 a, int bits) { return _mm512_srai_epi32(a, bits); }

  using Bytes = I32x16;

  static I32x16 load_vector(const void* p) { return _mm512_load_si512(p); }
  static Bytes load_bytes(const std::uint8_t* p) { return load_vector(p); }
  static void store_bytes(std::uint8_t* p, Bytes v) { _mm512_store_si512(p, v); }
  static Bytes splat(int byte) { return _mm512_set1_epi8(static_cast<char>(byte)); }
  static Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
  static Bytes both(Bytes a, Bytes b) { return _mm512_and_si512(a, b); }
  static Bytes exclusive(Bytes a, Bytes b) { return _mm512_xor_si512(a, b); }
  static Bytes add_bytes(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
  static Bytes sub_bytes(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }

  // Each byte shifted right (left if negative), then masked. No bit of a neighbour may pass the mask.
  static Bytes bits(Bytes a, int shift, int mask) {
    if (shift > 0) a = _mm512_srli_epi16(a, shift);
    if (shift < 0) a = _mm512_slli_epi16(a, -shift);
    return both(a, splat(mask));
  }
  // 255 where a byte is at least `least`, else 0.
  static Bytes at_least(Bytes a, int least) {
    return _mm512_movm_epi8(_mm512_cmpge_epu8_mask(a, splat(least)));
  }
  // The lesser of each two bytes.
  static Bytes lesser(Bytes a, Bytes b) { return _mm512_min_epu8(a, b); }
  // Entries of a table of 16 bytes, all indices being less.
  static Bytes look_up(const std::array<std::uint8_t, 16>& table, Bytes index) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table.data()));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), index);
  }
  // Entries of eight bytes, in halves, and of four.
  static void look_up(const std::uint64_t* table, I32x16 index, Bytes (&halves)[2]) {
    const __m512i low = _mm512_i32gather_epi64(_mm512_castsi512_si256(index), table, 8),
                  high = _mm512_i32gather_epi64(_mm512_extracti64x4_epi64(index, 1), table, 8);
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    halves[0] = _mm512_permutex2var_epi32(low, even, high);
    halves[1] = _mm512_permutex2var_epi32(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
  }
  static Bytes look_up(const std::uint32_t* table, I32x16 index) {
    return _mm512_i32gather_epi32(index, table, 4);
  }
  // The eight lowest bits of a lane to the bytes of two lanes: 255 where one is set.
  static void spread_bits(I32x16 a, Bytes (&halves)[2]) {
    const I32x16 copies = shuffle(a, 0x0404040400000000, 0x0c0c0c0c08080808);
    halves[0] = _mm512_movm_epi8(_mm512_test_epi8_mask(copies, _mm512_set1_epi32(0x08040201)));
    halves[1] =
        _mm512_movm_epi8(_mm512_test_epi8_mask(copies, _mm512_set1_epi32(static_cast<int>(0x80402010))));
  }

  // Of lanes of four bytes: the even or the odd ones, widened to 16 bits.
  template <bool kSigned>
  static I32x16 even_bytes(I32x16 a) {
    if constexpr (kSigned) return _mm512_srai_epi16(_mm512_slli_epi16(a, 8), 8);
    return _mm512_and_si512(a, _mm512_set1_epi16(255));
  }
  template <bool kSigned>
  static I32x16 odd_bytes(I32x16 a) {
    if constexpr (kSigned) return _mm512_srai_epi16(a, 8);
    return _mm512_srli_epi16(a, 8);
  }
  // Byte kByte of each lane, widened to 32 bits.
  template <int kByte, bool kSigned>
  static I32x16 byte_of_lanes(I32x16 a) {
    if constexpr (kSigned) return _mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * kByte), 24);
    if constexpr (kByte == 0) return _mm512_and_si512(a, _mm512_set1_epi32(255));
    constexpr long long kFrom = static_cast<long long>(0x8080800480808000) + 0x0000000100000001 * kByte;
    return shuffle(a, kFrom, kFrom + 0x0000000800000008);
  }
  // Of lanes of two int16: the first or the second in both places.
  static I32x16 twice_first(I32x16 a) { return shuffle(a, 0x0504050401000100, 0x0d0c0d0c09080908); }
  static I32x16 twice_second(I32x16 a) { return shuffle(a, 0x0706070603020302, 0x0f0e0f0e0b0a0b0a); }
  // The low (for 0) or the high bytes (1) of 16 bits, of even and of odd columns.
  template <int kByte>
  static Bytes bytes_of_words(I32x16 even, I32x16 odd) {
    if constexpr (kByte == 0) {
      const __m512i from = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0e0e0c0c0a0a0808, 0x0606040402020000));
      return _mm512_mask_shuffle_epi8(even, 0xaaaaaaaaaaaaaaaa, odd, from);
    } else {
      const __m512i from = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0f0f0d0d0b0b0909, 0x0707050503030101));
      return _mm512_mask_shuffle_epi8(odd, 0x5555555555555555, even, from);
    }
  }
  // Every 16 bytes of `a` in the order that the bytes of low and high say.
  static I32x16 shuffle(I32x16 a, long long low, long long high) {
    return _mm512_shuffle_epi8(a, sixteen(low, high));
  }
  static I32x16 sixteen(long long low, long long high) {
    return _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
  }

  // Both int16 of every lane multiplied.
  template <int kFactor>
  static I32x16 mul_words(I32x16 a) {
    if constexpr (kFactor == 1) return a;
    return _mm512_mullo_epi16(a, _mm512_set1_epi16(kFactor));
  }

  // Byte `column` of each lane, as the byte kByte of a float between 2^7 (for 2) or 2^15 (for 1) and its
  // double.
  template <int kByte>
  static F32x16 in_mantissa(Bytes a, int column) {
    const I32x16 power = _mm512_set1_epi32(kByte == 2 ? 0x43000000 : 0x47000000);
    if (column == kByte) {
      return _mm512_castsi512_ps(
          _mm512_ternarylogic_epi32(a, _mm512_set1_epi32(255 << 8 * kByte), power, 0xea));
    }
    const long long low = 0x0404040400000000 + column * 0x0101010101010101,
                    high = 0x0c0c0c0c08080808 + column * 0x0101010101010101;
    const __m512i from = _mm512_broadcast_i32x4(_mm_set_epi64x(high, low));
    return _mm512_castsi512_ps(_mm512_mask_shuffle_epi8(power, 0x1111111111111111 << kByte, a, from));
  }
  // Stores the upper halves of two floats of each lane, which are bfloat16.
  static void store_upper_pairs(std::byte* p, F32x16 even, F32x16 odd) {
    const __m512i upper = _mm512_broadcast_i32x4(_mm_set_epi64x(0x0f0e0f0e0b0a0b0a, 0x0706070603020302));
    _mm512_store_si512(p, _mm512_mask_shuffle_epi8(_mm512_castps_si512(odd), 0x3333333333333333,
                                                   _mm512_castps_si512(even), upper));
  }

  static I32x16 load_lanes(const std::uint32_t* p) { return load_vector(p); }
  static I32x16 load_pairs(const RowPairs& p) { return load_vector(p.lane); }
  static void store_pairs(RowPairs& p, I32x16 v) { _mm512_store_si512(p.lane, v); }

  static I32x16 broadcast_dword(const void* p) {
    std::int32_t value;
    __builtin_memcpy(&value, p, sizeof value);
    return _mm512_set1_epi32(value);
  }

  // Sums are of 32 bits.
  static constexpr int kWeightBits = 8;

  // sum += w times the four columns at x. Not as an intrinsic: a compiler that knew what it does would add in
  // another order, and keep on the stack what is added later.
  static void add_products(I32x16& sum, Bytes w, const std::int8_t* x) {
#ifndef TRIVET_EMULATE
    const auto& four = *reinterpret_cast<const std::int8_t (*)[4]>(x);
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(four));
#else
    sum = _mm512_dpbusd_epi32(sum, w, broadcast_dword(x));
#endif
  }
  // Likewise: a total is added to here.
  static void pin([[maybe_unused]] I32x16& total) {
#ifndef TRIVET_EMULATE
    asm("" : "+v"(total));
#endif
  }

  // The products of a single row wait for each other, so that every other one goes to a sum of its own.
  template <int M, int Quads, class Quad>
  static void sum_bytes(const Quad& quad, const std::int8_t* const (&x)[M], int column, I32x16 (&sum)[M]) {
    if constexpr (M == 1 && Quads > 4) {
      I32x16 odd = izero();
#pragma GCC unroll 8
      for (int v = 0; v < Quads; v += 2) {
        const Bytes w = quad(v), next = quad(v + 1);
        add_products(sum[0], w, x[0] + column + 4 * v);
        add_products(odd, next, x[0] + column + 4 * v + 4);
      }
      sum[0] = add(sum[0], odd);
    } else {
#pragma GCC unroll 8
      for (int v = 0; v < Quads; ++v) {
        const Bytes w = quad(v);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) add_products(sum[i], w, x[i] + column + 4 * v);
      }
    }
  }

  // Of sums that fit 16 bits, the other half of a lane is their sign: multiplied with 0, one instruction
  // scales and adds.
  template <int M, int kMost, bool kSigned>
  static void add_scaled(const I32x16 (&sum)[M], I32x16 scale, I32x16 (&total)[M]) {
    constexpr bool kShort = kMost < 1 << 15;
    const I32x16 factor = kShort && kSigned ? _mm512_and_si512(scale, _mm512_set1_epi32(0xffff)) : scale;
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      total[i] = kShort ? _mm512_dpwssd_epi32(total[i], sum[i], factor)
                        : _mm512_add_epi32(total[i], _mm512_mullo_epi32(sum[i], factor));
      pin(total[i]);
    }
  }

  // total[i] += w * x over `Pairs` pairs of columns of int16.
  template <int M, int Pairs>
  static void dot_words(const RowPairs* w, const std::int16_t* x, std::size_t stride, I32x16 (&total)[M]) {
    if constexpr (M == 1 && Pairs > 4) {
      I32x16 first[1] = {total[0]}, second[1] = {izero()};
      dot_words<1, Pairs / 2>(w, x, stride, first);
      dot_words<1, Pairs / 2>(w + Pairs / 2, x + Pairs, stride, second);
      total[0] = add(first[0], second[0]);
      return;
    }
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const I32x16 pairs = load_pairs(w[p]);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const auto* pair = reinterpret_cast<const std::byte*>(x + 2 * p) + i * stride;
        total[i] = _mm512_dpwssd_epi32(total[i], pairs, broadcast_dword(pair));
      }
    }
  }
};

}  // namespace
}  // namespace trivet

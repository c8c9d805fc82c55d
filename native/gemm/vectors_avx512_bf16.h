// The vectors of AVX-512 with VNNI, BF16 and VBMI. See kernel.h.
#pragma once

#include "gemm/vectors_avx512.h"

namespace trivet {
namespace {

struct Avx512Bf16 : Avx512 {
  // Of integers of less than 2^22, exactly. Where tiles multiply, one port is left to convert, to multiply
  // and to shift, but two that add.
  static F32x16 small_to_float(I32x16 a) {
    const F32x16 magic = broadcast(0x1.8p23f);
    return _mm512_sub_ps(_mm512_castsi512_ps(add(a, _mm512_castps_si512(magic))), magic);
  }

  // sum + the products of two bfloat16 in each lane.
  static F32x16 dot_bf16(F32x16 w, I32x16 x, F32x16 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }

  // The bits `mask` of a, the others of b.
  static Bytes select(Bytes mask, Bytes a, Bytes b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }
  // Of each lane the low (or the high) halves of both.
  static Bytes low_halves(Bytes a, Bytes b) {
    return _mm512_mask_shuffle_epi8(a, 0xcccccccccccccccc, b,
                                    sixteen(0x0504050401000100, 0x0d0c0d0c09080908));
  }
  static Bytes high_halves(Bytes a, Bytes b) {
    return _mm512_mask_shuffle_epi8(b, 0x3333333333333333, a,
                                    sixteen(0x0706070603020302, 0x0f0e0f0e0b0a0b0a));
  }
  // v in the lanes that have a bit clear, else 0.
  static Bytes where_clear(I32x16 lanes, int bit, Bytes v) {
    return _mm512_mask_mov_epi32(v, _mm512_test_epi32_mask(lanes, _mm512_set1_epi32(1 << bit)), izero());
  }

  // Entries of a table of 64 bytes, whose numbers are the low six bits.
  static Bytes entries(const std::array<std::uint8_t, 64>& table, Bytes numbers) {
    return _mm512_permutexvar_epi8(numbers, _mm512_loadu_si512(table.data()));
  }
  // Of a larger one: `low` has the low bytes of the numbers, those of 512 a ninth bit in bit `bit` of `high`.
  template <int kCount>
  static Bytes entries(const std::uint8_t* table, Bytes low, Bytes high, int bit) {
    static_assert(kCount == 256 || kCount == 512);
    constexpr int kHalf = kCount / 2;
    if constexpr (kCount == 256) {
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(low), entries_of_128(table, low),
                                    entries_of_128(table + kHalf, low));
    } else {
      return _mm512_mask_blend_epi8(_mm512_test_epi8_mask(high, splat(1 << bit)),
                                    entries<kHalf>(table, low, high, bit),
                                    entries<kHalf>(table + kHalf, low, high, bit));
    }
  }
  // Of 128, whose numbers are the low seven bits.
  static Bytes entries(const std::array<std::uint8_t, 128>& table, Bytes numbers) {
    return entries_of_128(table.data(), numbers);
  }
  // The columns of a step to where their order says.
  template <ColumnOrder kOrder>
  static void order_columns(std::int8_t (&q)[kStep]) {
    const auto from = load_vector(kColumns<kOrder>.data());
    for (int i = 0; i < kStep; i += 64) {
      _mm512_store_si512(q + i, _mm512_permutexvar_epi8(from, load_vector(q + i)));
    }
  }

 private:
  static Bytes entries_of_128(const std::uint8_t* table, Bytes numbers) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), numbers, _mm512_loadu_si512(table + 64));
  }

  template <ColumnOrder kOrder>
  alignas(64) static constexpr std::array<std::uint8_t, 64> kColumns = [] {
    std::array<std::uint8_t, 64> columns = {};
    for (int i = 0; i < 64; ++i) columns[i] = static_cast<std::uint8_t>(column_at(kOrder, i));
    return columns;
  }();
};

// For a single row, which does little but decode weights: one instruction takes bits out of bytes, and one
// looks up those of 64 entries that a mask chooses. Beside the products of more rows that is slower.
struct SingleRow : Avx512Bf16 {
  using Avx512Bf16::entries;
  template <int kCount>
  static Bytes entries(const std::uint8_t* table, Bytes low, Bytes high, int bit) {
    const __mmask64 seventh = _mm512_movepi8_mask(_mm512_add_epi8(low, low)),
                    eighth = _mm512_movepi8_mask(low);
    Bytes found = _mm512_permutexvar_epi8(low, load_vector(table));
    const auto replace = [&](__mmask64 where, int sixty_four) {
      found = _mm512_mask_permutexvar_epi8(found, where, low, load_vector(table + 64 * sixty_four));
    };
    replace(seventh, 1);
    replace(eighth, 2);
    replace(seventh & eighth, 3);
    if constexpr (kCount == 512) {
      const __mmask64 ninth = __builtin_constant_p(bit) && bit == 7
                                  ? _mm512_movepi8_mask(high)
                                  : _mm512_test_epi8_mask(high, splat(1 << bit));
      replace(ninth, 4);
      replace(ninth & seventh, 5);
      replace(ninth & eighth, 6);
      replace(ninth & seventh & eighth, 7);
    }
    return found;
  }

  static Bytes bits(Bytes a, int shift, int mask) {
    if (shift == 0) return both(a, splat(mask));
    return _mm512_gf2p8affine_epi64_epi8(a, _mm512_set1_epi64(bit_matrix(shift, mask)), 0);
  }

  // In the low and in the high four bits those from `first` on; with kEven, the eighth is set where the
  // number of the other seven is odd.
  template <bool kEven>
  static Bytes twice_nibble(Bytes a, int first) {
    std::uint64_t rows = 0;
    for (int i = 0; i < 8; ++i) {
      const int from = first + i % 4;
      rows |= std::uint64_t{kEven && from == 7 ? 127u : 1u << from} << 8 * (7 - i);
    }
    return _mm512_gf2p8affine_epi64_epi8(a, _mm512_set1_epi64(static_cast<std::int64_t>(rows)), 0);
  }

 private:
  // Of a byte and this, the bits `mask` of the byte shifted right (left if negative): its row i, from the
  // top, says of which bits bit i is the sum.
  static constexpr std::int64_t bit_matrix(int shift, int mask) {
    std::uint64_t rows = 0;
    for (int i = 0; i < 8; ++i) {
      const int from = i + shift;
      if ((mask >> i & 1) != 0 && from >= 0 && from < 8) rows |= std::uint64_t{1} << (8 * (7 - i) + from);
    }
    return static_cast<std::int64_t>(rows);
  }
};

}  // namespace
}  // namespace trivet

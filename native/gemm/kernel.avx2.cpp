// AVX2 + FMA + F16C: sixteen rows are two vectors.
#include "gemm/kernel.h"

#include <immintrin.h>

#include <array>

#include "gemm/rounding_avx2.h"

namespace trivet {
namespace {

struct Avx2 {
  // Of 16 registers two hold weights and one an activation, so that 6 rows' sums of two registers fit.
  // Integer kernels have totals beside their sums: measured, 4 rows are best, but 3 where totals are added to
  // after every 16 columns.
  static constexpr int kFloatRows = 6;
  static constexpr int kByteRows = 4, kCenteredRows = 3;
  static constexpr bool kDirectBytes = true;
  static constexpr int kDirectBlocks = 2;

  using Rounding = Avx2Rounding;
  struct F32x16 {
    __m256 low, high;
  };
  struct I32x16 {
    __m256i low, high;
  };

  // To the L2 cache, which may wait for more of memory at a time than the L1 cache, then to that.
  static void prefetch(const void* p) {
    constexpr int kFar = 16 << 10, kNear = 512;
    __builtin_prefetch(static_cast<const std::byte*>(p) + kFar, 0, 2);
    __builtin_prefetch(static_cast<const std::byte*>(p) + kNear);
  }

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
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
  }
  // Of float16 in lanes, whose upper halves are 0.
  static F32x16 from_f16(I32x16 lanes) {
    const __m256i halves = _mm256_packus_epi32(lanes.low, lanes.high);  // in the order 0, 2, 1, 3 of four
    return {_mm256_cvtph_ps(
                _mm_unpacklo_epi64(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1))),
            _mm256_cvtph_ps(
                _mm_unpackhi_epi64(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)))};
  }
  // Of 16 pairs of bfloat16.
  static F32x16 load_bf16_even(const std::uint32_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(load_vector(p), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(load_vector(p + 8), 16))};
  }
  static F32x16 load_bf16_odd(const std::uint32_t* p) {
    const __m256i mask = _mm256_set1_epi32(-65536);
    return {_mm256_castsi256_ps(_mm256_and_si256(load_vector(p), mask)),
            _mm256_castsi256_ps(_mm256_and_si256(load_vector(p + 8), mask))};
  }
  static F32x16 add(F32x16 a, F32x16 b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  static F32x16 mul(F32x16 a, F32x16 b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32x16 fnma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  static F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  static I32x16 izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static I32x16 sub(I32x16 a, I32x16 b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
  }
  static I32x16 shift_left(I32x16 a, int bits) {
    return {_mm256_slli_epi32(a.low, bits), _mm256_slli_epi32(a.high, bits)};
  }
  static I32x16 shift_right(I32x16 a, int bits) {
    return {_mm256_srli_epi32(a.low, bits), _mm256_srli_epi32(a.high, bits)};
  }

  using Bytes = I32x16;

  static __m256i load_vector(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static Bytes load_bytes(const std::uint8_t* p) { return {load_vector(p), load_vector(p + 32)}; }
  static void store_bytes(std::uint8_t* p, Bytes v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), v.low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + 32), v.high);
  }
  static Bytes splat(int byte) {
    const __m256i bytes = _mm256_set1_epi8(static_cast<char>(byte));
    return {bytes, bytes};
  }
  static Bytes either(Bytes a, Bytes b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }
  static Bytes both(Bytes a, Bytes b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
  }
  static Bytes exclusive(Bytes a, Bytes b) {
    return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
  }
  static Bytes add_bytes(Bytes a, Bytes b) {
    return {_mm256_add_epi8(a.low, b.low), _mm256_add_epi8(a.high, b.high)};
  }
  static Bytes sub_bytes(Bytes a, Bytes b) {
    return {_mm256_sub_epi8(a.low, b.low), _mm256_sub_epi8(a.high, b.high)};
  }

  // Each byte shifted right (left if negative), then masked. No bit of a neighbour may pass the mask.
  static Bytes bits(Bytes a, int shift, int mask) {
    return {bits(a.low, shift, mask), bits(a.high, shift, mask)};
  }
  static __m256i bits(__m256i a, int shift, int mask) {
    if (shift > 0) a = _mm256_srli_epi16(a, shift);
    if (shift < 0) a = _mm256_slli_epi16(a, -shift);
    return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(mask)));
  }
  // 255 where a byte is at least `least`, else 0.
  static Bytes at_least(Bytes a, int least) {
    const __m256i bytes = _mm256_set1_epi8(static_cast<char>(least));
    return {_mm256_cmpeq_epi8(_mm256_max_epu8(a.low, bytes), a.low),
            _mm256_cmpeq_epi8(_mm256_max_epu8(a.high, bytes), a.high)};
  }
  // The lesser of each two bytes.
  static Bytes lesser(Bytes a, Bytes b) {
    return {_mm256_min_epu8(a.low, b.low), _mm256_min_epu8(a.high, b.high)};
  }
  // Entries of a table of 16 bytes, all indices being less.
  static Bytes look_up(const std::array<std::uint8_t, 16>& table, Bytes index) {
    const __m256i entries =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table.data())));
    return {_mm256_shuffle_epi8(entries, index.low), _mm256_shuffle_epi8(entries, index.high)};
  }
  // Entries of eight bytes, in halves, and of four, with a byte of every lane in memory for an index. One
  // load after the other: measured, gathers take up to twice as long.
  static void look_up(const std::uint64_t* table, const std::uint32_t (&lanes)[16], int byte,
                      Bytes (&halves)[2]) {
    const auto* index = reinterpret_cast<const std::uint8_t*>(lanes) + byte;
    fill([&](int row) { return table[index[4 * row]]; }, halves);
  }
  static Bytes look_up(const std::uint32_t* table, const std::uint32_t (&lanes)[16], int byte) {
    const auto* index = reinterpret_cast<const std::uint8_t*>(lanes) + byte;
    return filled([&](int row) { return table[index[4 * row]]; });
  }
  // With a bit more: both entries are loaded, which is cheaper than to make an index of two parts.
  static void look_up(const std::array<std::uint64_t, 2>* table, const std::uint32_t (&lanes)[16], int byte,
                      I32x16 high, int bit, Bytes (&halves)[2]) {
    const auto* index = reinterpret_cast<const std::uint8_t*>(lanes) + byte;
    const I32x16 which = shift_left(high, 31 - bit);
    fill_pairs(table, index, which.low, halves[0].low, halves[1].low);
    fill_pairs(table, index + 32, which.high, halves[0].high, halves[1].high);
  }
  static void fill_pairs(const std::array<std::uint64_t, 2>* table, const std::uint8_t* index, __m256i which,
                         __m256i& first, __m256i& second) {
    const auto get = [&](int row) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + index[4 * row]));
    };
    const auto two = [&](int row) {
      return _mm256_inserti128_si256(_mm256_castsi128_si256(get(row)), get(row + 4), 1);
    };
    // Of rows 0 1 4 5 and 2 3 6 7.
    const auto chosen = [&](__m256i a, __m256i b, __m256i mask) {
      return _mm256_castpd_ps(_mm256_blendv_pd(_mm256_castsi256_pd(_mm256_unpacklo_epi64(a, b)),
                                               _mm256_castsi256_pd(_mm256_unpackhi_epi64(a, b)),
                                               _mm256_castsi256_pd(mask)));
    };
    const __m256 a = chosen(two(0), two(1), _mm256_unpacklo_epi32(which, which)),
                 b = chosen(two(2), two(3), _mm256_unpackhi_epi32(which, which));
    first = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    second = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
  }
  static Bytes look_up(const std::array<std::uint32_t, 2>* table, const std::uint32_t (&lanes)[16], int byte,
                       I32x16 high, int bit) {
    const auto* index = reinterpret_cast<const std::uint8_t*>(lanes) + byte;
    const auto pair = [&](int row) {
      std::uint64_t both;
      __builtin_memcpy(&both, table + index[4 * row], sizeof both);
      return both;
    };
    Bytes both[2];
    fill(pair, both);
    const I32x16 which = shift_left(high, 31 - bit);
    return {choose(both[0].low, both[1].low, which.low), choose(both[0].high, both[1].high, which.high)};
  }
  // Of lanes those of b where the highest bit of `which` is set.
  static __m256i choose(__m256i a, __m256i b, __m256i which) {
    return _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), _mm256_castsi256_ps(which)));
  }
  template <class Entry>
  static void fill(const Entry& entry, Bytes (&halves)[2]) {
    fill(entry, 0, halves[0].low, halves[1].low);
    fill(entry, 8, halves[0].high, halves[1].high);
  }
  template <class Entry>
  static void fill(const Entry& entry, int row, __m256i& first, __m256i& second) {
    const auto get = [&](int i) { return static_cast<long long>(entry(row + i)); };
    // Of rows 0 1 4 5 and 2 3 6 7, so that what is taken from both comes to lie in order.
    const __m256 a = _mm256_castsi256_ps(_mm256_set_epi64x(get(5), get(4), get(1), get(0)));
    const __m256 b = _mm256_castsi256_ps(_mm256_set_epi64x(get(7), get(6), get(3), get(2)));
    first = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    second = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
  }
  template <class Entry>
  static Bytes filled(const Entry& entry) {
    // Broadcasts and blends, of which more can begin in a cycle than inserts.
    const auto eight = [&](int row) {
      const auto get = [&](int i) { return _mm256_set1_epi32(static_cast<int>(entry(row + i))); };
      const __m256i a = _mm256_blend_epi32(get(0), get(1), 0x22),
                    b = _mm256_blend_epi32(get(2), get(3), 0x88);
      const __m256i c = _mm256_blend_epi32(get(4), get(5), 0x22),
                    d = _mm256_blend_epi32(get(6), get(7), 0x88);
      return _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0xcc), _mm256_blend_epi32(c, d, 0xcc), 0xf0);
    };
    return {eight(0), eight(8)};
  }
  // The eight lowest bits of a lane to the bytes of two lanes: 255 where one is set.
  static void spread_bits(I32x16 a, Bytes (&halves)[2]) {
    const I32x16 copies = shuffle(a, 0x0404040400000000, 0x0c0c0c0c08080808);
    const __m256i first = _mm256_set1_epi32(0x08040201),
                  second = _mm256_set1_epi32(static_cast<int>(0x80402010));
    halves[0] = {_mm256_cmpeq_epi8(_mm256_and_si256(copies.low, first), first),
                 _mm256_cmpeq_epi8(_mm256_and_si256(copies.high, first), first)};
    halves[1] = {_mm256_cmpeq_epi8(_mm256_and_si256(copies.low, second), second),
                 _mm256_cmpeq_epi8(_mm256_and_si256(copies.high, second), second)};
  }

  // Of lanes of four bytes: the even or the odd ones, widened to 16 bits.
  template <bool kSigned>
  static I32x16 even_bytes(I32x16 a) {
    return {even_bytes<kSigned>(a.low), even_bytes<kSigned>(a.high)};
  }
  template <bool kSigned>
  static __m256i even_bytes(__m256i a) {
    if constexpr (kSigned) return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8);
    return _mm256_and_si256(a, _mm256_set1_epi16(255));
  }
  template <bool kSigned>
  static I32x16 odd_bytes(I32x16 a) {
    if constexpr (kSigned) return {_mm256_srai_epi16(a.low, 8), _mm256_srai_epi16(a.high, 8)};
    return {_mm256_srli_epi16(a.low, 8), _mm256_srli_epi16(a.high, 8)};
  }
  // Of lanes of two int16: the first or the second in both places.
  static I32x16 twice_first(I32x16 a) { return shuffle(a, 0x0504050401000100, 0x0d0c0d0c09080908); }
  static I32x16 twice_second(I32x16 a) { return shuffle(a, 0x0706070603020302, 0x0f0e0f0e0b0a0b0a); }
  static I32x16 shuffle(I32x16 a, long long low, long long high) {
    const __m256i order = _mm256_setr_epi64x(low, high, low, high);
    return {_mm256_shuffle_epi8(a.low, order), _mm256_shuffle_epi8(a.high, order)};
  }

  // Both int16 of every lane multiplied.
  template <int kFactor>
  static I32x16 mul_words(I32x16 a) {
    if constexpr (kFactor == 1) return a;
    const __m256i factor = _mm256_set1_epi16(kFactor);
    return {_mm256_mullo_epi16(a.low, factor), _mm256_mullo_epi16(a.high, factor)};
  }

  static I32x16 load_lanes(const std::uint32_t* p) { return {load_vector(p), load_vector(p + 8)}; }
  static I32x16 load_pairs(const RowPairs& p) { return load_lanes(p.lane); }
  static void store_pairs(RowPairs& p, I32x16 v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p.lane), v.low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p.lane + 8), v.high);
  }

  static __m256i broadcast_dword(const void* p) {
    std::int32_t value;
    __builtin_memcpy(&value, p, sizeof value);
    return _mm256_set1_epi32(value);
  }

  // Registers are short: a sum must not be put off until all its products lie on the stack, and an activation
  // is cheaper to load again for the next run than to keep. The compiler sees neither by itself.
  static void pin(__m256i& low, __m256i& high) { asm("" : "+x"(low), "+x"(high)); }
  // The same, and what is held later is computed later.
  static void hold(__m256i& low, __m256i& high) { asm volatile("" : "+x"(low), "+x"(high)); }

  // Sums are of 16 bits: a pair of products of seven bits fills one.
  static constexpr int kWeightBits = 7;

  template <int M, int Quads, int Bits, class Quad>
  static void dot_bytes(const Quad& quad, I32x16 scale, const std::int8_t* const (&x)[M], int column,
                        I32x16 (&total)[M]) {
    // So many quads of such weights with |x| <= 127 cannot overflow: Chain * 2 * (2^Bits - 1) * 127 < 2^15.
    constexpr int kMost = Bits <= 4 ? 8 : 128 >> Bits, Chain = kMost < Quads ? kMost : Quads;
    const std::int8_t* rows[M];
    for (int i = 0; i < M; ++i) rows[i] = forget(x[i] + column);
#pragma GCC unroll 8
    for (int first = 0; first < Quads; first += Chain) {
      __m256i low[M], high[M];
#pragma GCC unroll 8
      for (int v = first; v < first + Chain; ++v) {
        const Bytes w = quad(v);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const __m256i four = broadcast_dword(rows[i] + 4 * v);
          const __m256i more_low = _mm256_maddubs_epi16(w.low, four),
                        more_high = _mm256_maddubs_epi16(w.high, four);
          low[i] = v == first ? more_low : _mm256_add_epi16(low[i], more_low);
          high[i] = v == first ? more_high : _mm256_add_epi16(high[i], more_high);
          pin(low[i], high[i]);
        }
      }
      add_scaled<M>(low, high, scale, total);
    }
  }

  // The same with weights that are kCenter too large, whose sums begin at the step's center16. On their way
  // sums may pass 16 bits and come back: |w - kCenter| * |x| fits for four quads.
  template <int M, int Quads, class Quad>
  static void dot_centered(const Quad& quad, I32x16 scale, const std::int8_t* const (&x)[M], int column,
                           I32x16 (&total)[M]) {
    static_assert(Quads * 2 * kCenter * 127 < 1 << 15);
    const std::int8_t* rows[M];
    __m256i low[M], high[M];
    for (int i = 0; i < M; ++i) {
      rows[i] = forget(x[i] + column);
      low[i] = high[i] = broadcast_dword(x[i] + offsetof(ActivationStep256, center16) + column / 4);
    }
#pragma GCC unroll 8
    for (int v = 0; v < Quads; ++v) {
      const Bytes w = quad(v);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const __m256i four = broadcast_dword(rows[i] + 4 * v);
        low[i] = _mm256_add_epi16(low[i], _mm256_maddubs_epi16(w.low, four));
        high[i] = _mm256_add_epi16(high[i], _mm256_maddubs_epi16(w.high, four));
        pin(low[i], high[i]);
      }
    }
    add_scaled<M>(low, high, scale, total);
  }
  template <int M>
  static void add_scaled(const __m256i (&low)[M], const __m256i (&high)[M], I32x16 scale,
                         I32x16 (&total)[M]) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(low[i], scale.low));
      total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(high[i], scale.high));
      pin(total[i].low, total[i].high);
    }
  }

  static void store_center(const std::int8_t* q, CenterSums& out) {
    const __m128i pairs =
        _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_load_si128(reinterpret_cast<const __m128i*>(q)));
    const __m128i fours = _mm_add_epi16(pairs, _mm_unpackhi_epi64(pairs, pairs));
    const __m128i sums = _mm_add_epi16(fours, _mm_srli_epi64(fours, 32));
    const int center = _mm_cvtsi128_si32(_mm_mullo_epi16(sums, _mm_set1_epi16(-kCenter)));
    __builtin_memcpy(&out, &center, sizeof out);
  }

  // 0: the magnitudes of weights that are 128 too large; 1: their signed values.
  static Bytes signed_part(Bytes a, int part) {
    const Bytes weight = exclusive(a, splat(128));
    if (part == 1) return weight;
    return {_mm256_abs_epi8(weight.low), _mm256_abs_epi8(weight.high)};
  }

  // The weights' signs go to the activations; a pair of products, 2 * 128 * 127, fills 16 bits.
  template <int M, int Quads, class Magnitude, class Weight>
  static void dot_signed(const Magnitude& magnitude, const Weight& weight, I32x16 scale,
                         const std::int8_t* const (&x)[M], int column, I32x16 (&total)[M]) {
    const std::int8_t* rows[M];
    for (int i = 0; i < M; ++i) rows[i] = forget(x[i] + column);
#pragma GCC unroll 8
    for (int v = 0; v < Quads; ++v) {
      Bytes m = magnitude(v), w = weight(v);
      hold(m.low, m.high);
      hold(w.low, w.high);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const __m256i four = broadcast_dword(rows[i] + 4 * v);
        const __m256i low = _mm256_maddubs_epi16(m.low, _mm256_sign_epi8(four, w.low)),
                      high = _mm256_maddubs_epi16(m.high, _mm256_sign_epi8(four, w.high));
        total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(low, scale.low));
        total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(high, scale.high));
        hold(total[i].low, total[i].high);
      }
    }
  }

  // total[i] += w * x over `Pairs` pairs of columns of int16.
  template <int M, int Pairs>
  static void dot_words(const RowPairs* w, const std::int16_t* x, std::size_t stride, I32x16 (&total)[M]) {
#pragma GCC unroll 8
    for (int p = 0; p < Pairs; ++p) {
      const I32x16 pairs = load_pairs(w[p]);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const __m256i pair = broadcast_dword(reinterpret_cast<const std::byte*>(x + 2 * p) + i * stride);
        total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(pairs.low, pair));
        total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(pairs.high, pair));
      }
    }
  }
};

}  // namespace

extern const Kernels kAvx2Kernels = make_kernels<Avx2>();

}  // namespace trivet

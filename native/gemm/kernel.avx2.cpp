// AVX2 + FMA + F16C: sixteen rows are two vectors.
#include <immintrin.h>

#include "gemm/kernel.h"

namespace trivet {
namespace {

struct Avx2 {
  // Of 16 registers two hold weights and one an activation, so that 6 rows' sums of two registers fit.
  // Integer kernels have totals beside their sums: measured, 4 rows are best.
  static constexpr int kFloatRows = 6;
  static constexpr int kByteRows = 4;

  struct F32x16 {
    __m256 low, high;
  };
  struct I32x16 {
    __m256i low, high;
  };

  static void prefetch(const void* p) { __builtin_prefetch(static_cast<const std::byte*>(p) + kPrefetch); }

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
  template <int Bits>
  static I32x16 shift_left(I32x16 a) {
    return {_mm256_slli_epi32(a.low, Bits), _mm256_slli_epi32(a.high, Bits)};
  }

  using Bytes = I32x16;

  static __m256i load_vector(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static Bytes load_bytes(const std::uint8_t* p) { return {load_vector(p), load_vector(p + 32)}; }
  static void store_bytes(std::uint8_t* p, Bytes v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p), v.low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + 32), v.high);
  }
  static Bytes either(Bytes a, Bytes b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }

  // Each byte shifted right by Shift (left if negative), then masked. No bit of a neighbour may pass the
  // mask.
  template <int Shift, int Mask>
  static Bytes bits(Bytes a) {
    return {bits<Shift, Mask>(a.low), bits<Shift, Mask>(a.high)};
  }
  template <int Shift, int Mask>
  static __m256i bits(__m256i a) {
    if constexpr (Shift > 0) a = _mm256_srli_epi16(a, Shift);
    if constexpr (Shift < 0) a = _mm256_slli_epi16(a, -Shift);
    return _mm256_and_si256(a, _mm256_set1_epi8(Mask));
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
  static void pin(I32x16& v) { asm("" : "+x"(v.low), "+x"(v.high)); }
  static const std::int8_t* forget(const std::int8_t* x) {
    asm volatile("" : "+r"(x));
    return x;
  }

  template <int M, int Quads, int Chain, class Run>
  static void dot_bytes(const Run& run, const RowPairs& scale, const std::int8_t* const (&x)[M], int column,
                        I32x16 (&total)[M]) {
    const I32x16 scales = load_pairs(scale);
    const std::int8_t* rows[M];
    for (int i = 0; i < M; ++i) rows[i] = forget(x[i] + column);
#pragma GCC unroll 8
    for (int first = 0; first < Quads; first += Chain) {
      I32x16 sum[M];
#pragma GCC unroll 8
      for (int v = first; v < first + Chain; ++v) {
        const Bytes w = run(v);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const __m256i quad = broadcast_dword(rows[i] + 4 * v);
          const __m256i low = _mm256_maddubs_epi16(w.low, quad), high = _mm256_maddubs_epi16(w.high, quad);
          sum[i].low = v == first ? low : _mm256_add_epi16(sum[i].low, low);
          sum[i].high = v == first ? high : _mm256_add_epi16(sum[i].high, high);
          pin(sum[i]);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        total[i].low = _mm256_add_epi32(total[i].low, _mm256_madd_epi16(sum[i].low, scales.low));
        total[i].high = _mm256_add_epi32(total[i].high, _mm256_madd_epi16(sum[i].high, scales.high));
        pin(total[i]);
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

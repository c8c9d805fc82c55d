// Weights in blocks, rounded to int8 with one scale for a row of a panel and 256 columns, by AVX-512. See
// kernel_bytes.h and kernel_tiles_bytes.h.
#pragma once

#include "avx512.h"
#include "gemm/kernel_block256.h"
#include "gemm/kernel_block32.h"

namespace trivet {
namespace {

// Formats whose own error hides that of a byte with one scale for 256 columns, and their kernels.
#define TRIVET_BYTE_FORMATS(X) \
  X(Q4_0, 32)                  \
  X(Q4_1, 32)                  \
  X(Q5_0, 32)                  \
  X(Q5_1, 32)                  \
  X(IQ4_NL, 32)                \
  X(MXFP4, 32)                 \
  X(Q2_K, 256)                 \
  X(Q3_K, 256)                 \
  X(Q4_K, 256)                 \
  X(Q5_K, 256)                 \
  X(Q6_K, 256)                 \
  X(IQ4_XS, 256)

// The weights of a Block32Kernel or a Block256Kernel, kExcess larger than what they stand for.
template <class V, class Few, int kExcess>
struct RoundedBytes {
  using F = typename V::F32x16;
  using I = typename V::I32x16;
  using W = typename Few::W;
  static_assert(kOrder<W> == ColumnOrder::natural);
  static constexpr int kRunColumns = 4 * W::kQuads;
  static constexpr float kMost = [] {
    if constexpr (requires { W::kMost; }) return W::kMost;
    return (1 << W::kBits) - 1;
  }();
  static constexpr float kMiddle = (kMost + 1) / 2;
  static constexpr int kHalf = 256 * kExcess + 128;  // beside the excess

  static I bits(F a) { return _mm512_castps_si512(a); }

  static I magnitude(F a) { return V::both(bits(a), V::broadcast(0x7fffffff)); }

  // The integer nearest to each, modulo 2^16, in both halves of a lane.
  static I twice_nearest(F a) { return V::twice_first(bits(V::add(a, V::broadcast(0x1.8p23f)))); }

  // A weight is `unit` times the byte that stands for it; 256 times the rounded one is w in 16 bits with a
  // factor and an offset for each row, which rounds as it has a half in it. The largest magnitude becomes
  // 127; with one that is not finite, the unit is not either. Calls between() after each run.
  template <bool kFetch, class Between>
  static void round_step(const PackedQuads<V, W, kFetch>& weights, int columns,
                         const typename Few::Scratch& scratch, float* unit, std::uint8_t (*row)[64],
                         const Between& between) {
    alignas(64) float lines[kStep / kRunColumns][W::kHasMinimum ? 2 : 1][kPanelRows];
    I most = V::izero();
    for (int run = 0; run < columns / kRunColumns; ++run) {
      const F scale = Few::scale(scratch, run);
      V::store(lines[run][0], scale);
      if constexpr (W::kHasMinimum) {
        const F minimum = Few::minimum(scratch, run, scale, 0);
        V::store(lines[run][1], minimum);
        most = _mm512_max_epi32(most, magnitude(minimum));
        most = _mm512_max_epi32(most, magnitude(V::fma(scale, V::broadcast(kMost), minimum)));
      } else {
        most = _mm512_max_epi32(most, magnitude(scale));
      }
    }
    F peak = _mm512_castsi512_ps(most);
    if constexpr (!W::kHasMinimum) peak = V::mul(peak, V::broadcast(static_cast<float>(kMostMagnitude<W>)));
    V::store(unit, V::mul(peak, V::broadcast(1 / 127.0f)));
    // The reciprocal of what is below 2^-100 would overflow.
    const __mmask16 large = _mm512_cmp_ps_mask(peak, V::broadcast(0x1p-100f), _CMP_GE_OQ);
    const F inverse = _mm512_maskz_mov_ps(large, _mm512_div_ps(V::broadcast(127 * 256.0f), peak));
    for (int group = 0; group < columns / (W::kRuns * kRunColumns); ++group) {
#pragma GCC unroll 8
      for (int i = 0; i < W::kRuns; ++i, row += W::kQuads) {
        const auto& line = lines[group * W::kRuns + i];
        F minimum = V::zero();
        if constexpr (W::kHasMinimum) minimum = V::mul(V::load(line[1]), inverse);
        round_run([&](int v) { return weights(group, i, 0, v); }, V::mul(V::load(line[0]), inverse), minimum,
                  row);
        between();
      }
    }
    for (int q = columns / 4; q < kStep / 4; ++q) V::store_bytes(*row++, V::izero());
  }

  template <class Quad>
  [[gnu::always_inline]] static void round_run(const Quad& quad, F scale, F minimum,
                                               std::uint8_t (*row)[64]) {
    const I high = _mm512_set1_epi16(-256);
    if constexpr (W::kBits == 8) {
      // Less 128 a byte fits the high half of 16 bits, and a factor of 16 bits is exact enough.
      static_assert(W::kOffset == 128);
      const I factor = twice_nearest(V::mul(scale, V::broadcast(128.0f)));
      const I offset = _mm512_set1_epi16(static_cast<short>(kHalf));
#pragma GCC unroll 8
      for (int v = 0; v < W::kQuads; ++v) {
        const typename V::Bytes bytes = V::exclusive(quad(v), V::splat(128));
        const auto rounded = [&](I words) {
          return _mm512_add_epi16(_mm512_mulhrs_epi16(words, factor), offset);
        };
        V::store_bytes(row[v], V::template bytes_of_words<1>(rounded(_mm512_slli_epi16(bytes, 8)),
                                                             rounded(V::both(bytes, high))));
      }
    } else {
      const I factor = twice_nearest(scale);
      I offset = _mm512_set1_epi16(static_cast<short>(kHalf));
      if constexpr (W::kHasMinimum) {
        // Makes up for what the factor lacks in the middle of a byte's range.
        const F magic = V::broadcast(0x1.8p23f);
        const F rest = _mm512_sub_ps(scale, _mm512_sub_ps(V::add(scale, magic), magic));
        offset = twice_nearest(
            V::add(minimum, V::fma(rest, V::broadcast(kMiddle), V::broadcast(static_cast<float>(kHalf)))));
      } else {
        offset = _mm512_sub_epi16(offset, V::template mul_words<W::kOffset>(factor));
      }
#pragma GCC unroll 8
      for (int v = 0; v < W::kQuads; ++v) {
        const typename V::Bytes bytes = quad(v);
        const auto rounded = [&](I words) {
          return _mm512_add_epi16(_mm512_mullo_epi16(words, factor), offset);
        };
        V::store_bytes(row[v], V::template bytes_of_words<1>(rounded(V::template even_bytes<false>(bytes)),
                                                             rounded(V::template odd_bytes<false>(bytes))));
      }
    }
  }
};

}  // namespace
}  // namespace trivet

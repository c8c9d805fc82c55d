// How the bytes of TQ1_0, TQ2_0, IQ1_S, IQ1_M and IQ2_S, of which each is several digits, become weights and
// scales: see kernel_block.h and Block256Kernel.
#pragma once

#include "formats/grids.h"
#include "gemm/kernel_block.h"
#include "gemm/weights_k.h"

namespace trivet {
namespace {

// One scale for the block, and weights 1 too large.
template <class V, class P>
struct Ternary {
  using Panel = P;
  static constexpr int kBits = 2, kQuads = 8, kOffset = 1;
  static constexpr bool kHasMinimum = false, kUniform = true;
  static constexpr float kFactor = 1;

  template <class Scratch>
  static void scales(const Panel&, Scratch& out) {
    const auto one = V::load_pairs(kOne), twice = V::load_pairs(kTwice);
    for (RowPairs& scale : out.scales) V::store_pairs(scale, Scratch::kTwice ? twice : one);
    for (RowPairs& offset : out.mins) V::store_pairs(offset, twice);
  }

  static constexpr RowPairs kOne = same_for_all(1, 0), kTwice = same_for_all(1, 1);
};

template <class V>
struct WeightsTQ2_0 : Ternary<V, PanelTQ2_0> {
  static constexpr int kGroups = 2, kRuns = 4;
  static constexpr bool kDirect = true;

  static typename V::Bytes quad(const PanelTQ2_0* in, int half, int quarter, int v) {
    return two_bits<V>(reinterpret_cast<const std::uint8_t (&)[64]>(in->words[8 * half + v]), quarter);
  }
};

// Bytes below 3 * kUnit less kUnit times their first trit: the least of these, as what is negative counts as
// 2^8 more.
template <int kUnit, class V>
typename V::Bytes beside_first_trit(typename V::Bytes bytes) {
  return V::lesser(V::lesser(bytes, V::sub_bytes(bytes, V::splat(kUnit))),
                   V::sub_bytes(bytes, V::splat(2 * kUnit)));
}

// By a quarter of a trit times 28: the trit. By the low four bits of the number of three, which is below 27:
// two bits for each, and which of these are others if the fifth bit is set.
inline constexpr std::array<std::uint8_t, 16> kTimes28 = {0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 0};
inline constexpr auto kLastTrits = [] {
  std::array<std::array<std::uint8_t, 16>, 2> tables = {};
  const auto trits = [](int number) { return number / 9 | number / 3 % 3 << 2 | number % 3 << 4; };
  for (int i = 0; i < 16; ++i) {
    tables[0][i] = static_cast<std::uint8_t>(trits(i));
    tables[1][i] = static_cast<std::uint8_t>(trits(i) ^ trits(i < 11 ? 16 + i : 0));
  }
  return tables;
}();

// Calls use(u, digits) for each quad u of a panel's trits. See PanelTQ1_0.
template <class V, class Panel, class Use>
void each_trits(const Panel& in, Use use) {
  for (int w = 0; w < kTritWords; ++w) {
    fetch_part<V, sizeof in, kTritWords>(&in, w);
    const typename V::Bytes all = load_scales<V>(in.words[w]), four = beside_first_trit<84, V>(all),
                            three = beside_first_trit<28, V>(four);
    use(5 * w, V::bits(V::sub_bytes(all, four), 2, 3));  // 84 is 0b01010100
    use(5 * w + 1, V::look_up(kTimes28, V::bits(V::sub_bytes(four, three), 2, 15)));
    const typename V::Bytes low = V::bits(three, 0, 15);
    const typename V::Bytes change = V::both(V::look_up(kLastTrits[1], low), V::at_least(three, 16));
    const typename V::Bytes last = V::exclusive(V::look_up(kLastTrits[0], low), change);
    for (int n = 2; n < 5 && 5 * w + n < kStep / 4; ++n) use(5 * w + n, V::bits(last, 2 * (n - 2), 3));
  }
}

template <class V, class Panel>
void unpack_trits(const Panel& in, std::uint8_t (*out)[64]) {
  each_trits<V>(in, [&](int u, typename V::Bytes digits) { V::store_bytes(out[u], digits); });
}

template <class V>
struct WeightsTQ1_0 : Ternary<V, PanelTQ1_0> {
  static constexpr int kGroups = 1, kRuns = 8;
  static constexpr bool kDirect = false;

  static void unpack(const PanelTQ1_0& in, std::uint8_t (*out)[64]) { unpack_trits<V>(in, out); }
};

// Of IQ1, by the three bits of a scale and a sign above them: the scale, and times 7, or 9 if the sign is
// set.
inline constexpr std::array<std::uint8_t, 16> kOddIQ1 = {1, 3, 5, 7, 9, 11, 13, 15,
                                                         1, 3, 5, 7, 9, 11, 13, 15};
inline constexpr auto kMinimaIQ1 = [] {
  std::array<std::uint8_t, 16> minima = {};
  for (int i = 0; i < 16; ++i) minima[i] = static_cast<std::uint8_t>(kOddIQ1[i] * (i < 8 ? 7 : 9));
  return minima;
}();

// d * scale * (digit - 1 + (sign ? -1/8 : 1/8)): the last two are the minimum, 7 or 9 eighths.
template <class V>
struct WeightsIQ1_S {
  using Panel = PanelIQ1_S;
  static constexpr int kBits = 2, kMost = 2, kOffset = 0, kGroups = 1, kRuns = 8, kQuads = 8;
  static constexpr bool kHasMinimum = true, kDirect = false;
  static constexpr float kFactor = 1, kMinimumFactor = 0.125f;

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) { unpack_trits<V>(in, out); }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    const auto packed = load_scales<V>(in.words[kTritWords]);
    for (int g = 0; g < 2; ++g) {
      const auto s = V::bits(packed, 4 * g, 15);
      widen_minima<V>(V::look_up(kOddIQ1, s), V::look_up(kMinimaIQ1, s), g, out);
    }
  }
};

// 2s + 1 of the bits `mask` << `shift` of each byte.
template <class V>
typename V::Bytes odd(typename V::Bytes bytes, int shift, int mask) {
  return V::either(V::bits(bytes, shift - 1, 2 * mask), V::splat(1));
}

// d / 8 * scale * (8 * (digit - 1) + (sign ? -1 : 1)), with a sign for every eight columns.
template <class V>
struct WeightsIQ1_M {
  using Panel = PanelIQ1_M;
  static constexpr int kBits = 2, kMost = 2, kOffset = 0, kOffsetColumns = 8;
  static constexpr int kGroups = 1, kRuns = 16, kQuads = 4;
  static constexpr bool kHasMinimum = false, kDirect = false;

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) { unpack_trits<V>(in, out); }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    const auto signs = load_scales<V>(in.signs);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const auto packed = load_scales<V>(in.scales[g / 2]), s = V::bits(packed, g % 2 * 3, 7);
      widen_runs<V, false>(V::bits(V::look_up(kOddIQ1, s), -3, 0xf8), g, out);
      for (int half = 0; half < 2; ++half) {
        const auto signed_s = V::either(s, V::bits(signs, 2 * g + half - 3, 8));
        widen_pairs<V, false>(V::look_up(kMinimaIQ1, signed_s), out.mins + 4 * g + 2 * half);
      }
    }
    store_d(in, out.d);
  }

  static void store_d(const Panel& in, float (&out)[kPanelRows]) {
    const auto nibbles =
        V::either(V::bits(load_scales<V>(in.scales[0]), 6, 3), V::bits(load_scales<V>(in.scales[1]), 4, 12));
    const auto bytes = V::both(V::either(nibbles, V::shift_right(nibbles, 4)), V::broadcast(0x00ff00ff));
    const auto d = V::both(V::either(bytes, V::shift_right(bytes, 8)), V::broadcast(0xffff));
    V::store(out, V::mul(V::from_f16(d), V::broadcast(0.125f)));
  }
};

// The odd scales of kRuns runs: see PanelIQ2_S.
template <class V, class W, int kRuns, class Scratch>
void paired_scales(const std::uint32_t (*words)[kPanelRows], Scratch& out) {
  for (int g = 0; g < kRuns / 4; ++g) {
    widen_offset<V, W>(odd<V>(load_scales<V>(words[g / 2]), g % 2 * 4, 15), g, out);
  }
}

// The weights of IQ2 have three magnitudes up to 43, and stand for eighths.
inline constexpr float kFactorIQ2 = 0.125f;
inline constexpr int kOffsetIQ2 = 43;
// Of the digits of IQ2_S.
inline constexpr std::array<std::uint8_t, 16> kWeightsIQ2 = [] {
  std::array<std::uint8_t, 16> weights = {};
  for (int i = 0; i < 6; ++i) {
    const int level = kLevelsIQ2[i % 3];
    weights[i] = static_cast<std::uint8_t>(i < 3 ? kOffsetIQ2 + level : kOffsetIQ2 - level);
  }
  return weights;
}();

template <class V>
struct WeightsIQ2_S {
  using Panel = PanelIQ2_S;
  static constexpr int kBits = 7, kOffset = kOffsetIQ2, kGroups = 1, kRuns = 16, kQuads = 4;
  static constexpr bool kHasMinimum = false, kDirect = false;

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) {
    for (int w = 0; w < kSixWords; ++w) {
      fetch_part<V, sizeof in, kSixWords>(&in, w);
      // 6 / 256 is a little more than 1 / 44, which does not matter to bytes less than 36 above 44 * first.
      const typename V::Bytes bytes = load_scales<V>(in.words[w]), first = high_bytes<6>(bytes);
      const typename V::Bytes rest = V::sub_bytes(bytes, V::look_up(kTimes<44>, first));
      const typename V::Bytes second = high_bytes<43>(rest);  // rest / 6, below 36
      V::store_bytes(out[3 * w], V::look_up(kWeightsIQ2, first));
      V::store_bytes(out[3 * w + 1], V::look_up(kWeightsIQ2, second));
      V::store_bytes(out[3 * w + 2],
                     V::look_up(kWeightsIQ2, V::sub_bytes(rest, V::look_up(kTimes<6>, second))));
    }
    V::store_bytes(out[3 * kSixWords], last_quad(in));
  }

  // Of the product of each byte with a factor.
  template <int kFactor>
  static typename V::Bytes high_bytes(typename V::Bytes bytes) {
    const auto even = V::template mul_words<kFactor>(V::template even_bytes<false>(bytes)),
               odd = V::template mul_words<kFactor>(V::template odd_bytes<false>(bytes));
    return V::either(V::template odd_bytes<false>(even),
                     V::both(odd, V::broadcast(static_cast<std::int32_t>(0xff00ff00))));
  }

  // Of digits.
  template <int kFactor>
  static constexpr std::array<std::uint8_t, 16> kTimes = {0,           kFactor,     2 * kFactor,
                                                          3 * kFactor, 4 * kFactor, 5 * kFactor};

  static typename V::Bytes last_quad(const Panel& in) {
    alignas(64) std::uint32_t lanes[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) lanes[r] = in.last[r];
    const auto digits = V::load_lanes(lanes);  // a nibble each
    const auto pairs = V::both(V::either(digits, V::shift_left(digits, 8)), V::broadcast(0x00ff00ff));
    return V::look_up(kWeightsIQ2, V::bits(V::either(pairs, V::shift_left(pairs, 4)), 0, 15));
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    paired_scales<V, WeightsIQ2_S, 16>(in.scales, out);
    V::store(out.d, V::mul(V::load_f16(in.d), V::broadcast(kFactorIQ2)));
  }
};

}  // namespace
}  // namespace trivet

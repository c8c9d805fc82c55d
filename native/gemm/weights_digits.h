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
    const auto one = V::load_pairs(kOne);
    for (RowPairs& scale : out.scales) V::store_pairs(scale, one);
    for (RowPairs& offset : out.mins) V::store_pairs(offset, one);
  }

  static constexpr RowPairs kOne = same_for_all(1, 1);
};

template <class V>
struct WeightsTQ2_0 : Ternary<V, PanelTQ2_0> {
  static constexpr int kGroups = 2, kRuns = 4;
  static constexpr bool kDirect = true;

  static typename V::Bytes quad(const PanelTQ2_0* in, int half, int quarter, int v) {
    return two_bits<V>(reinterpret_cast<const std::uint8_t (&)[64]>(in->words[8 * half + v]), quarter);
  }
};

// Bytes of trits less 85 times the first: the least of these, as what is negative counts as 2^8 more. What is
// taken off has the digit in every two bits.
template <class V>
typename V::Bytes beside_first_trit(typename V::Bytes bytes) {
  return V::lesser(V::lesser(bytes, V::sub_bytes(bytes, V::splat(85))), V::sub_bytes(bytes, V::splat(170)));
}

// Calls use(u, digits) for each quad u of a panel's trits. See PanelTQ1_0.
template <class V, class Panel, class Use>
void each_trits(const Panel& in, Use use) {
  const auto thrice = [](typename V::Bytes bytes) { return V::add_bytes(bytes, V::add_bytes(bytes, bytes)); };
  for (int w = 0; w < kTritWords; ++w) {
    fetch_part<V, sizeof in>(&in, w, kTritWords);
    const typename V::Bytes all = load_scales<V>(in.words[w]), rest = beside_first_trit<V>(all);
    use(5 * w, V::both(V::sub_bytes(all, rest), V::splat(3)));
    typename V::Bytes bytes = V::add_bytes(thrice(rest), V::splat(3));
    for (int n = 1; n < 5 && 5 * w + n < kStep / 4; ++n) {
      // byte * 3 / 256 is the number of these that it reaches.
      const typename V::Bytes digit = V::add_bytes(V::at_least(bytes, 86), V::at_least(bytes, 171));
      use(5 * w + n, V::sub_bytes(V::splat(0), digit));
      bytes = thrice(bytes);
    }
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
      const auto s = V::bits(packed, 4 * g, 7), negative = V::at_least(V::bits(packed, 4 * g, 8), 8);
      const auto scale = V::either(V::add_bytes(s, s), V::splat(1));
      const auto seven = V::sub_bytes(V::bits(scale, -3, 0xf8), scale);
      widen_minima<V>(scale, V::add_bytes(seven, V::both(negative, V::add_bytes(scale, scale))), g, out);
    }
  }
};

// The odd scales 2s + 1, of bytes s, of runs 4g to 4g + 3.
template <class V, class W, class Scratch>
void odd_scales(typename V::Bytes s, int g, Scratch& out) {
  widen_offset<V, W>(V::either(V::add_bytes(s, s), V::splat(1)), g, out);
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
      const auto scale = odd_scale(in, g), eight = V::bits(scale, -3, 0xf8);
      widen_runs<V, false>(eight, out.scales + 4 * g);
      const auto seven = V::sub_bytes(eight, scale), two = V::add_bytes(scale, scale);
      for (int half = 0; half < 2; ++half) {
        const auto negative = V::at_least(V::bits(signs, 2 * g + half, 1), 1);
        widen_pairs<V, false>(V::add_bytes(seven, V::both(negative, two)), out.mins + 4 * g + 2 * half);
      }
    }
    store_d(in, out.d);
  }

  // Of runs 4g to 4g + 3.
  static typename V::Bytes odd_scale(const Panel& in, int g) {
    const auto s = V::bits(load_scales<V>(in.scales[g / 2]), g % 2 * 3, 7);
    return V::either(V::add_bytes(s, s), V::splat(1));
  }

  static void store_d(const Panel& in, float (&out)[kPanelRows]) {
    alignas(64) std::uint16_t d[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      const std::uint32_t nibbles = (in.scales[0][r] >> 6 & 0x03030303) | (in.scales[1][r] >> 4 & 0x0c0c0c0c);
      const std::uint32_t bytes = (nibbles | nibbles >> 4) & 0x00ff00ff;
      d[r] = static_cast<std::uint16_t>(bytes | bytes >> 8);
    }
    V::store(out, V::mul(V::load_f16(d), V::broadcast(0.125f)));
  }
};

// Four nibbles of a lane's low half to a byte each.
template <class V>
typename V::I32x16 spread_nibbles(typename V::I32x16 lanes) {
  const auto low = V::both(lanes, V::broadcast(0xffff));
  const auto pairs = V::both(V::either(low, V::shift_left(low, 8)), V::broadcast(0x00ff00ff));
  return V::both(V::either(pairs, V::shift_left(pairs, 4)), V::broadcast(0x0f0f0f0f));
}

// The odd scales of sixteen runs, whose s are nibbles.
template <class V, class W, class Scratch>
void sixteen_scales(const std::uint32_t (*words)[kPanelRows], Scratch& out) {
  for (int g = 0; g < 4; ++g) {
    odd_scales<V, W>(spread_nibbles<V>(V::shift_right(V::load_lanes(words[g / 2]), g % 2 * 16)), g, out);
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
      fetch_part<V, sizeof in>(&in, w, kSixWords);
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
    return V::look_up(kWeightsIQ2, spread_nibbles<V>(V::load_lanes(lanes)));
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    sixteen_scales<V, WeightsIQ2_S>(in.scales, out);
    V::store(out.d, V::mul(V::load_f16(in.d), V::broadcast(kFactorIQ2)));
  }
};

}  // namespace
}  // namespace trivet

// How the bytes of Q2_K to Q6_K and IQ4_XS become weights and scales: see kernel_block.h and Block256Kernel.
#pragma once

#include "gemm/kernel_block.h"
#include "gemm/weights_block32.h"

namespace trivet {
namespace {

// Of four runs whose scales are the bytes of each lane: the pairs (0, 2) and (1, 3), multiplied by kFactor.
template <class V, bool kSigned, int kFactor = 1>
void widen_pairs(typename V::Bytes scales, RowPairs pairs[2]) {
  const auto even = V::template even_bytes<kSigned>(scales), odd = V::template odd_bytes<kSigned>(scales);
  V::store_pairs(pairs[0], V::template mul_words<kFactor>(even));
  V::store_pairs(pairs[1], V::template mul_words<kFactor>(odd));
}

// The same runs one by one: each scale twice, or as 32 bits.
template <class V, bool kSigned, class Scratch>
void widen_runs(typename V::Bytes scales, int g, Scratch& out) {
  RowPairs* runs = out.scales + 4 * g;
  if constexpr (Scratch::kTwice) {
    const auto even = V::template even_bytes<kSigned>(scales), odd = V::template odd_bytes<kSigned>(scales);
    V::store_pairs(runs[0], V::twice_first(even));
    V::store_pairs(runs[1], V::twice_first(odd));
    V::store_pairs(runs[2], V::twice_second(even));
    V::store_pairs(runs[3], V::twice_second(odd));
  } else {
    V::store_pairs(runs[0], V::template byte_of_lanes<0, kSigned>(scales));
    V::store_pairs(runs[1], V::template byte_of_lanes<1, kSigned>(scales));
    V::store_pairs(runs[2], V::template byte_of_lanes<2, kSigned>(scales));
    V::store_pairs(runs[3], V::template byte_of_lanes<3, kSigned>(scales));
  }
}

// Scales of four runs of W's, and the offsets that they make.
template <class V, class W, class Scratch>
void widen_offset(typename V::Bytes scales, int g, Scratch& out) {
  widen_runs<V, kSignedScales<W>>(scales, g, out);
  if constexpr (!kOffsetInSums<V, W>) widen_pairs<V, true, kExcess<V, W>>(scales, out.mins + 2 * g);
}

// Scales and minima of four runs.
template <class V, class Scratch>
void widen_minima(typename V::Bytes scales, typename V::Bytes mins, int g, Scratch& out) {
  widen_runs<V, false>(scales, g, out);
  widen_pairs<V, false>(mins, out.mins + 2 * g);
}

template <class V>
typename V::Bytes load_scales(const std::uint32_t (&lanes)[kPanelRows]) {
  return V::load_bytes(reinterpret_cast<const std::uint8_t*>(lanes));
}

// Two bits of quad `quad` of a quarter of a half: see PanelQ2_K.
template <class V>
typename V::Bytes two_bits(const std::uint8_t (&quads)[64], int quarter) {
  return V::bits(V::load_bytes(quads), 2 * quarter, 3);
}

template <class V>
struct WeightsQ2_K {
  using Panel = PanelQ2_K;
  static constexpr int kBits = 2, kGroups = 2, kRuns = 8, kQuads = 4, kOffset = 0;
  static constexpr bool kHasMinimum = true, kDirect = true;

  static typename V::Bytes quad(const Panel* in, int half, int run, int v) {
    return two_bits<V>(in->quads[8 * half + run % 2 * 4 + v], run / 2);
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    for (int g = 0; g < 4; ++g) {
      const typename V::Bytes packed = load_scales<V>(in.scales[g]);
      widen_minima<V>(V::bits(packed, 0, 15), V::bits(packed, 4, 15), g, out);
    }
    V::store(out.d, V::load_f16(in.d));
    V::store(out.dmin, V::load_f16(in.dmin));
  }
};

template <class V>
struct WeightsQ3_K {
  using Panel = PanelQ3_K;
  static constexpr int kBits = 3, kGroups = 2, kRuns = 8, kQuads = 4, kOffset = 4;
  static constexpr bool kHasMinimum = false, kDirect = true, kSignedScales = true;

  static typename V::Bytes quad(const Panel* in, int half, int run, int v) {
    const int quarter = run / 2, place = run % 2 * 4 + v;
    const typename V::Bytes high = V::load_bytes(in->high[4 * half + place % 4]);
    return V::either(two_bits<V>(in->quads[8 * half + place], quarter),
                     V::bits(high, quarter + place / 4 * 4 - 2, 4));
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    const typename V::Bytes top = load_scales<V>(in.scales[2]);
    for (int g = 0; g < 4; ++g) {
      const typename V::Bytes low = V::bits(load_scales<V>(in.scales[g % 2]), g / 2 * 4, 15);
      const typename V::Bytes scale = V::either(low, V::bits(top, 2 * g - 4, 48));
      widen_offset<V, WeightsQ3_K>(V::sub_bytes(scale, V::splat(32)), g, out);
    }
    V::store(out.d, V::load_f16(in.d));
  }
};

// What Q4_K and Q5_K have in common.
template <class V, class P>
struct RunPairs {
  using Panel = P;
  static constexpr int kGroups = 4, kRuns = 2, kQuads = 8, kOffset = 0;
  static constexpr bool kHasMinimum = true, kDirect = true;

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      widen_minima<V>(load_scales<V>(in.scales[g]), load_scales<V>(in.mins[g]), g, out);
    }
    V::store(out.d, V::load_f16(in.d));
    V::store(out.dmin, V::load_f16(in.dmin));
  }
};

template <class V>
struct WeightsQ4_K : RunPairs<V, PanelQ4_K> {
  static constexpr int kBits = 4;

  static typename V::Bytes quad(const PanelQ4_K* in, int pair, int run, int v) {
    return nibble<V>(in->quads[8 * pair + v], run == 1);
  }
};

template <class V>
struct WeightsQ5_K : RunPairs<V, PanelQ5_K> {
  static constexpr int kBits = 5;

  static typename V::Bytes quad(const PanelQ5_K* in, int pair, int run, int v) {
    const typename V::Bytes high = V::load_bytes(in->high[2 * pair + v / 4]);
    return V::either(nibble<V>(in->quads[8 * pair + v], run == 1), V::bits(high, 2 * (v % 4) + run - 4, 16));
  }
};

template <class V>
struct WeightsQ6_K {
  using Panel = PanelQ6_K;
  static constexpr bool kCentered = true;
  static constexpr int kBits = 6, kGroups = 2, kRuns = 8, kQuads = 4, kOffset = kCenter;
  static constexpr bool kHasMinimum = false, kDirect = true, kSignedScales = true;

  // Quads 0 to 31 of a half: four times eight, which have their upper bits together, and every other eight
  // their lower ones.
  static typename V::Bytes quad(const Panel* in, int half, int run, int v) {
    const int eight = run / 2, place = run % 2 * 4 + v;
    const auto low = V::load_bytes(in->low[half * 16 + eight % 2 * 8 + place]);
    const auto high = V::load_bytes(in->high[half * 8 + place]);
    return V::either(V::bits(low, eight / 2 * 4, 15), V::bits(high, 2 * eight - 4, 48));
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    for (int g = 0; g < 4; ++g) {
      widen_offset<V, WeightsQ6_K>(load_scales<V>(in.scales[g]), g, out);
    }
    V::store(out.d, V::load_f16(in.d));
  }
};

template <class V>
struct WeightsIQ4_XS {
  using Panel = PanelIQ4_XS;
  static constexpr int kBits = 8, kGroups = 8, kRuns = 1, kQuads = 8, kOffset = kOffsetIQ4;
  static constexpr bool kHasMinimum = false, kDirect = true, kSignedScales = true;

  static typename V::Bytes quad(const Panel* in, int run, int, int v) {
    return V::look_up(kTableIQ4, nibble<V>(in->quads[4 * run + v % 4], v >= 4));
  }

  template <class Scratch>
  static void scales(const Panel& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      widen_offset<V, WeightsIQ4_XS>(load_scales<V>(in.scales[g]), g, out);
    }
    V::store(out.d, V::load_f16(in.d));
  }
};

}  // namespace
}  // namespace trivet

// How the bytes of the grid formats IQ1, IQ2 and IQ3 become weights and scales: see kernel_block.h and
// Block256Kernel. Indices, signs and scales are taken from words of all rows at once, a lane for each row; an
// index says eight or four weights of a row, so that the whole step is decoded before it is used.
#pragma once

#include "formats/grids.h"
#include "gemm/kernel_block.h"
#include "gemm/weights_k.h"

namespace trivet {
namespace {

// What they have in common. Weights are kOffset larger than what they stand for, which d * kFactor scales.
template <class V, class P, int kAllRuns>
struct GridWeights {
  using Panel = P;
  using Lanes = typename V::I32x16;
  static constexpr int kGroups = 1, kRuns = kAllRuns, kQuads = kStep / 4 / kAllRuns;
  static constexpr bool kHasMinimum = false, kDirect = false;

  static Lanes word(const Panel& in, int index) { return V::load_lanes(in.words[index]); }

  // `mask` of a lane's bits from `shift` on.
  static Lanes field(Lanes lanes, int shift, std::int32_t mask) {
    return V::both(V::shift_right(lanes, shift), V::broadcast(mask));
  }

  // A part of a lane that lies `from` bits too high, or too low.
  static Lanes moved(Lanes lanes, int from, std::int32_t mask) {
    const Lanes part = from >= 0 ? V::shift_right(lanes, from) : V::shift_left(lanes, -from);
    return V::both(part, V::broadcast(mask));
  }

  // Four nibbles, or four times three bits, of a lane to a byte each.
  static Lanes spread_nibbles(Lanes lanes, int shift) {
    const Lanes low = field(lanes, shift, 0xffff);
    const Lanes pairs = V::both(V::either(low, V::shift_left(low, 8)), V::broadcast(0x00ff00ff));
    return V::both(V::either(pairs, V::shift_left(pairs, 4)), V::broadcast(0x0f0f0f0f));
  }
  static Lanes spread_threes(Lanes lanes, int shift) {
    const Lanes low = V::shift_right(lanes, shift);
    return V::either(V::either(moved(low, 0, 7), moved(low, -5, 7 << 8)),
                     V::either(moved(low, -10, 7 << 16), moved(low, -15, 7 << 24)));
  }

  // Four times seven bits of a lane to a byte each, with an eighth that makes the number of set bits even.
  static Lanes spread_signs(Lanes lanes) {
    const Lanes seven = V::either(V::either(moved(lanes, 0, 127), moved(lanes, -1, 127 << 8)),
                                  V::either(moved(lanes, -2, 127 << 16), moved(lanes, -3, 127 << 24)));
    return even_signs(seven);
  }
  static Lanes even_signs(Lanes seven) {
    constexpr std::array<std::uint8_t, 16> kOdd = {0,   128, 128, 0,   128, 0,   0,   128,
                                                   128, 0,   0,   128, 0,   128, 128, 0};
    const Lanes odd =
        V::exclusive(V::look_up(kOdd, V::bits(seven, 0, 15)), V::look_up(kOdd, V::bits(seven, 4, 7)));
    return V::either(seven, odd);
  }

  // The entries that a byte of each lane of a word says.
  template <std::size_t kCount>
  static void look_up(const std::array<std::uint64_t, kCount>& grid, const std::uint32_t (&lanes)[16],
                      int byte, Lanes (&quads)[2]) {
    if constexpr (requires { V::look_up(grid.data(), lanes, byte, quads); }) {
      V::look_up(grid.data(), lanes, byte, quads);
    } else {
      V::look_up(grid.data(), field(V::load_lanes(lanes), 8 * byte, 255), quads);
    }
  }
  template <std::size_t kCount>
  static Lanes look_up(const std::array<std::uint32_t, kCount>& grid, const std::uint32_t (&lanes)[16],
                       int byte) {
    if constexpr (requires { V::look_up(grid.data(), lanes, byte); }) {
      return V::look_up(grid.data(), lanes, byte);
    } else {
      return V::look_up(grid.data(), field(V::load_lanes(lanes), 8 * byte, 255));
    }
  }

  // Two quads of the grid entries that `index` says, negative where a bit of the low bytes of `signs` is set.
  template <int kOffset, std::size_t kCount>
  static void store_eight(const std::array<std::uint64_t, kCount>& grid, Lanes index, Lanes signs,
                          std::uint8_t (*out)[64]) {
    Lanes quads[2];
    V::look_up(grid.data(), index, quads);
    store_eight<kOffset>(quads[0], quads[1], signs, out);
  }
  template <int kOffset>
  static void store_eight(Lanes first, Lanes second, Lanes signs, std::uint8_t (*out)[64]) {
    Lanes negative[2];
    V::spread_bits(signs, negative);
    store_signed<kOffset>(first, negative[0], out[0]);
    store_signed<kOffset>(second, negative[1], out[1]);
  }

  // The same of a grid of four values, with an index for each of the quads.
  template <int kOffset, std::size_t kCount>
  static void store_eight(const std::array<std::uint32_t, kCount>& grid, Lanes first, Lanes second,
                          Lanes signs, std::uint8_t (*out)[64]) {
    store_eight<kOffset>(V::look_up(grid.data(), first), V::look_up(grid.data(), second), signs, out);
  }

  // Stores kOffset + quad, or kOffset - quad where `negative` is 255.
  template <int kOffset>
  static void store_signed(Lanes quad, Lanes negative, std::uint8_t* out) {
    const Lanes value = V::sub_bytes(V::exclusive(quad, negative), negative);
    V::store_bytes(out, V::add_bytes(value, V::splat(kOffset)));
  }

  // The odd scales 2s + 1, of bytes s, of runs 4g to 4g + 3; and d times `factor`.
  template <class W, class Scratch>
  static void store_odd(Lanes s, int g, Scratch& out) {
    widen_offset<V, W>(V::either(V::add_bytes(s, s), V::splat(1)), g, out);
  }
  static typename V::F32x16 scaled(const std::uint16_t (&d)[kPanelRows], float factor) {
    return V::mul(V::load_f16(d), V::broadcast(factor));
  }
};

// The top four bits of words 0, step, 2 step and 3 step, a byte each.
template <class V>
typename V::I32x16 top_nibbles(const std::uint32_t (*words)[kPanelRows], int step) {
  typename V::I32x16 bytes = V::shift_right(V::load_lanes(words[0]), 28);
#pragma GCC unroll 3
  for (int i = 1; i < 4; ++i) {
    bytes = V::either(bytes, V::shift_left(V::shift_right(V::load_lanes(words[step * i]), 28), 8 * i));
  }
  return bytes;
}

// The grids of IQ2 have three magnitudes up to 43.
template <class V, class P, int kRuns>
struct GridWeights2 : GridWeights<V, P, kRuns> {
  static constexpr int kBits = 7, kOffset = 43;
  static constexpr float kFactor = 0.125f;
};

template <class V>
struct WeightsIQ2_XXS : GridWeights2<V, PanelIQ2_XXS, 8> {
  using Base = GridWeights2<V, PanelIQ2_XXS, 8>;

  static void unpack(const PanelIQ2_XXS& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in>(&in, run, 8);
      const auto signs = Base::spread_signs(Base::word(in, 2 * run + 1));
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        typename Base::Lanes quads[2];
        Base::look_up(kGridIQ2_XXS, in.words[2 * run], g, quads);
        Base::template store_eight<Base::kOffset>(quads[0], quads[1], V::shift_right(signs, 8 * g),
                                                  out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ2_XXS& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      Base::template store_odd<WeightsIQ2_XXS>(top_nibbles<V>(in.words + 8 * g + 1, 2), g, out);
    }
    V::store(out.d, Base::scaled(in.d, Base::kFactor));
  }
};

// Nibbles of words[first] and words[first + 1] for sixteen runs.
template <class V, class W, class Scratch>
void sixteen_scales(const typename W::Panel& in, int first, Scratch& out) {
  for (int g = 0; g < 4; ++g) {
    W::template store_odd<W>(W::spread_nibbles(W::word(in, first + g / 2), g % 2 * 16), g, out);
  }
  V::store(out.d, W::scaled(in.d, W::kFactor));
}

template <class V>
struct WeightsIQ2_XS : GridWeights2<V, PanelIQ2_XS, 16> {
  using Base = GridWeights2<V, PanelIQ2_XS, 16>;

  static void unpack(const PanelIQ2_XS& in, std::uint8_t (*out)[64]) {
    for (int w = 0; w < 16; ++w, out += 4) {
      fetch_part<V, sizeof in>(&in, w, 16);
      const auto word = Base::word(in, w), signs = Base::even_signs(Base::field(word, 9, 0x007f007f));
#pragma GCC unroll 2
      for (int g = 0; g < 2; ++g) {
        Base::template store_eight<Base::kOffset>(kGridIQ2_XS, Base::field(word, 16 * g, 511),
                                                  V::shift_right(signs, 16 * g), out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ2_XS& in, Scratch& out) {
    sixteen_scales<V, Base>(in, 16, out);
  }
};

template <class V>
struct WeightsIQ2_S : GridWeights2<V, PanelIQ2_S, 16> {
  using Base = GridWeights2<V, PanelIQ2_S, 16>;

  // words: 8 of low indices, 8 of signs, 2 of high indices, 2 of scales
  static void unpack(const PanelIQ2_S& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in>(&in, run, 8);
      const auto low = Base::word(in, run), signs = Base::word(in, 8 + run);
      const auto high = V::shift_right(Base::word(in, 16 + run / 4), run % 4 * 8);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto index = V::either(Base::field(low, 8 * g, 255), Base::moved(high, 2 * g - 8, 3 << 8));
        Base::template store_eight<Base::kOffset>(kGridIQ2_S, index, V::shift_right(signs, 8 * g),
                                                  out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ2_S& in, Scratch& out) {
    sixteen_scales<V, Base>(in, 18, out);
  }
};

template <class V>
struct WeightsIQ3_XXS : GridWeights<V, PanelIQ3_XXS, 8> {
  using Base = GridWeights<V, PanelIQ3_XXS, 8>;
  static constexpr int kBits = 6, kOffset = 31;  // the grid has half the magnitudes
  static constexpr float kFactor = 0.5f;

  // words: 16 of indices, 8 of signs and scales
  static void unpack(const PanelIQ3_XXS& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in>(&in, run, 8);
      const auto signs = Base::spread_signs(Base::word(in, 16 + run));
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto& index = in.words[2 * run + g / 2];
        Base::template store_eight<kOffset>(Base::look_up(kGridIQ3_XXS, index, g % 2 * 2),
                                            Base::look_up(kGridIQ3_XXS, index, g % 2 * 2 + 1),
                                            V::shift_right(signs, 8 * g), out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ3_XXS& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      Base::template store_odd<WeightsIQ3_XXS>(top_nibbles<V>(in.words + 16 + 4 * g, 1), g, out);
    }
    V::store(out.d, Base::scaled(in.d, kFactor));
  }
};

template <class V>
struct WeightsIQ3_S : GridWeights<V, PanelIQ3_S, 8> {
  using Base = GridWeights<V, PanelIQ3_S, 8>;
  static constexpr int kBits = 5, kOffset = 15;

  // words: 16 of low indices, 2 of high indices, 8 of signs, 1 of scales
  static void unpack(const PanelIQ3_S& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in>(&in, run, 8);
      const auto high = V::shift_right(Base::word(in, 16 + run / 4), run % 4 * 8);
      const auto signs = Base::word(in, 18 + run);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto low = Base::word(in, 2 * run + g / 2);
        const auto index = [&](int v) {
          return V::either(Base::field(low, v % 4 * 8, 255), Base::moved(high, v - 8, 1 << 8));
        };
        Base::template store_eight<kOffset>(kGridIQ3_S, index(2 * g), index(2 * g + 1),
                                            V::shift_right(signs, 8 * g), out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ3_S& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      Base::template store_odd<WeightsIQ3_S>(Base::spread_nibbles(Base::word(in, 26), 16 * g), g, out);
    }
    V::store(out.d, Base::scaled(in.d, 1.0f));
  }
};

// The grid of IQ1 has eight times the values, plus 8. With the eighth that a sign adds or takes off, weights
// are between -9 and 9 eighths.
template <class V, class P, int kRuns>
struct GridWeights1 : GridWeights<V, P, kRuns> {
  static constexpr int kBits = 5, kMost = 18, kOffset = 9;
  static constexpr float kFactor = 0.125f;

  // `negative` is 0 or 1 in each lane.
  static void store_eight(typename V::I32x16 index, typename V::I32x16 negative, std::uint8_t (*out)[64]) {
    typename V::I32x16 quads[2];
    V::look_up(kGridIQ1.data(), index, quads);
    const auto two = V::both(V::sub(negative, V::broadcast(1)), V::splat(2));
    V::store_bytes(out[0], V::add_bytes(quads[0], two));
    V::store_bytes(out[1], V::add_bytes(quads[1], two));
  }

  // words: 8 of low indices, then 4 with 16 bits for each run: of these every group of eight columns has
  // kBitsEach, the high bits of its index. The sign is the fourth bit of each group, or the last one of the
  // run.
  template <int kBitsEach, bool kSignEach>
  static void unpack_runs(const P& in, std::uint8_t (*out)[64]) {
    using Base = GridWeights<V, P, kRuns>;
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in>(&in, run, 8);
      const auto low = Base::word(in, run), high = V::shift_right(Base::word(in, 8 + run / 2), run % 2 * 16);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto index =
            V::either(Base::field(low, 8 * g, 255), Base::moved(high, kBitsEach * g - 8, 7 << 8));
        store_eight(index, Base::field(high, kSignEach ? 4 * g + 3 : 15, 1), out + 2 * g);
      }
    }
  }
};

template <class V>
struct WeightsIQ1_S : GridWeights1<V, PanelIQ1_S, 8> {
  using Base = GridWeights1<V, PanelIQ1_S, 8>;

  static void unpack(const PanelIQ1_S& in, std::uint8_t (*out)[64]) {
    Base::template unpack_runs<3, false>(in, out);
  }

  template <class Scratch>
  static void scales(const PanelIQ1_S& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      const auto first = Base::word(in, 8 + 2 * g), second = Base::word(in, 9 + 2 * g);
      const auto s = V::either(V::either(Base::moved(first, 12, 7), Base::moved(first, 20, 7 << 8)),
                               V::either(Base::moved(second, -4, 7 << 16), Base::moved(second, 4, 7 << 24)));
      Base::template store_odd<WeightsIQ1_S>(s, g, out);
    }
    V::store(out.d, Base::scaled(in.d, Base::kFactor));
  }
};

template <class V>
struct WeightsIQ1_M : GridWeights1<V, PanelIQ1_M, 16> {
  using Base = GridWeights1<V, PanelIQ1_M, 16>;

  static void unpack(const PanelIQ1_M& in, std::uint8_t (*out)[64]) {
    Base::template unpack_runs<4, true>(in, out);
  }

  template <class Scratch>
  static void scales(const PanelIQ1_M& in, Scratch& out) {
    for (int g = 0; g < 4; ++g) {
      Base::template store_odd<WeightsIQ1_M>(Base::spread_threes(Base::word(in, 12 + g / 2), g % 2 * 16), g,
                                             out);
    }
    alignas(64) std::uint16_t d[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      const std::uint32_t first = in.words[12][r], second = in.words[13][r];
      d[r] = static_cast<std::uint16_t>((first >> 12 & 0xf) | (first >> 24 & 0xf0) | (second >> 4 & 0xf00) |
                                        (second >> 16 & 0xf000));
    }
    V::store(out.d, V::mul(V::load_f16(d), V::broadcast(Base::kFactor)));
  }
};

}  // namespace
}  // namespace trivet

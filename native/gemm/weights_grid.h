// How the bytes of the grid formats IQ2 and IQ3 become weights and scales: see kernel_block.h and
// Block256Kernel. Indices, signs and scales are taken from words of all rows at once, a lane for each row; an
// index says eight or four weights of a row, so that the whole step is decoded before it is used.
#pragma once

#include "formats/grids.h"
#include "gemm/kernel_block.h"
#include "gemm/weights_digits.h"

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

  // Of four times seven bits, a byte each, with an eighth that makes the number of set bits even.
  static Lanes even_signs(const std::uint32_t (&lanes)[16]) {
    const Lanes seven = V::both(V::load_lanes(lanes), V::broadcast(0x7f7f7f7f));
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

  // The same with a bit more, bit `bit` of each lane of `high`.
  static void look_up(const GridPairs<std::uint64_t>& grid, const std::uint32_t (&lanes)[16], int byte,
                      Lanes high, int bit, Lanes (&quads)[2]) {
    if constexpr (requires { V::look_up(grid.data(), lanes, byte, high, bit, quads); }) {
      V::look_up(grid.data(), lanes, byte, high, bit, quads);
    } else {
      V::look_up(grid[0].data(), pair_index(lanes, byte, high, bit), quads);
    }
  }
  static Lanes look_up(const GridPairs<std::uint32_t>& grid, const std::uint32_t (&lanes)[16], int byte,
                       Lanes high, int bit) {
    if constexpr (requires { V::look_up(grid.data(), lanes, byte, high, bit); }) {
      return V::look_up(grid.data(), lanes, byte, high, bit);
    } else {
      return V::look_up(grid[0].data(), pair_index(lanes, byte, high, bit));
    }
  }
  static Lanes pair_index(const std::uint32_t (&lanes)[16], int byte, Lanes high, int bit) {
    return V::either(moved(V::load_lanes(lanes), 8 * byte - 1, 255 << 1), moved(high, bit, 1));
  }

  // Two quads, negative where a bit of the low bytes of `signs` is set.
  template <int kOffset>
  static void store_eight(Lanes first, Lanes second, Lanes signs, std::uint8_t (*out)[64]) {
    Lanes negative[2];
    V::spread_bits(signs, negative);
    store_signed<kOffset>(first, negative[0], out[0]);
    store_signed<kOffset>(second, negative[1], out[1]);
  }

  // Stores kOffset + quad, or kOffset - quad where `negative` is 255.
  template <int kOffset>
  static void store_signed(Lanes quad, Lanes negative, std::uint8_t* out) {
    const Lanes value = V::sub_bytes(V::exclusive(quad, negative), negative);
    V::store_bytes(out, V::add_bytes(value, V::splat(kOffset)));
  }
};

// Of words 0, step, 2 step and 3 step the top bits of each byte, as bits 0 to 3.
template <class V>
typename V::Bytes top_bits(const std::uint32_t (*words)[kPanelRows], int step) {
  typename V::Bytes bits = V::bits(load_scales<V>(words[0]), 7, 1);
#pragma GCC unroll 3
  for (int i = 1; i < 4; ++i) bits = V::either(bits, V::bits(load_scales<V>(words[step * i]), 7 - i, 1 << i));
  return bits;
}

template <class V, class P, int kRuns>
struct GridWeights2 : GridWeights<V, P, kRuns> {
  static constexpr int kBits = 7, kOffset = kOffsetIQ2;
  static constexpr float kFactor = kFactorIQ2;
};

template <class V>
struct WeightsIQ2_XXS : GridWeights2<V, PanelIQ2_XXS, 8> {
  using Base = GridWeights2<V, PanelIQ2_XXS, 8>;

  static void unpack(const PanelIQ2_XXS& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in, 8>(&in, run);
      const auto signs = Base::even_signs(in.words[2 * run + 1]);
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
      widen_offset<V, WeightsIQ2_XXS>(odd<V>(top_bits<V>(in.words + 8 * g + 1, 2), 0, 15), g, out);
    }
  }
};

template <class V>
struct WeightsIQ2_XS : GridWeights2<V, PanelIQ2_XS, 16> {
  using Base = GridWeights2<V, PanelIQ2_XS, 16>;

  static void unpack(const PanelIQ2_XS& in, std::uint8_t (*out)[64]) {
    for (int k = 0; k < 8; ++k, out += 8) {
      fetch_part<V, sizeof in, 8>(&in, k);
      const auto high = Base::word(in, 2 * k + 1);
      const auto signs = Base::even_signs(in.words[2 * k + 1]);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        typename Base::Lanes quads[2];
        Base::look_up(kGridPairsIQ2_XS, in.words[2 * k], g, high, 8 * g + 7, quads);
        Base::template store_eight<Base::kOffset>(quads[0], quads[1], V::shift_right(signs, 8 * g),
                                                  out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ2_XS& in, Scratch& out) {
    paired_scales<V, WeightsIQ2_XS, 16>(in.words + 16, out);
  }
};

template <class V>
struct WeightsIQ3_XXS : GridWeights<V, PanelIQ3_XXS, 8> {
  using Base = GridWeights<V, PanelIQ3_XXS, 8>;
  static constexpr int kBits = 6, kOffset = 31;  // the grid has half the magnitudes
  static constexpr float kFactor = 0.5f;

  static void unpack(const PanelIQ3_XXS& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in, 8>(&in, run);
      const auto signs = Base::even_signs(in.words[16 + run]);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto quad = [&](int v) {
          return Base::look_up(kGridIQ3_XXS, in.words[2 * run + v % 2], v / 2);
        };
        Base::template store_eight<kOffset>(quad(2 * g), quad(2 * g + 1), V::shift_right(signs, 8 * g),
                                            out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ3_XXS& in, Scratch& out) {
    for (int g = 0; g < 2; ++g) {
      widen_offset<V, WeightsIQ3_XXS>(odd<V>(top_bits<V>(in.words + 16 + 4 * g, 1), 0, 15), g, out);
    }
  }
};

template <class V>
struct WeightsIQ3_S : GridWeights<V, PanelIQ3_S, 8> {
  using Base = GridWeights<V, PanelIQ3_S, 8>;
  static constexpr int kBits = 5, kOffset = 15;
  static constexpr float kFactor = 1;

  static void unpack(const PanelIQ3_S& in, std::uint8_t (*out)[64]) {
    for (int run = 0; run < 8; ++run, out += 8) {
      fetch_part<V, sizeof in, 8>(&in, run);
      const auto high = V::shift_right(Base::word(in, 16 + run / 4), run % 4 * 2);
      const auto signs = Base::word(in, 18 + run);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const auto quad = [&](int m) {
          return Base::look_up(kGridPairsIQ3_S, in.words[2 * run + m], g, high, 8 * g + m);
        };
        Base::template store_eight<kOffset>(quad(0), quad(1), V::shift_right(signs, 8 * g), out + 2 * g);
      }
    }
  }

  template <class Scratch>
  static void scales(const PanelIQ3_S& in, Scratch& out) {
    paired_scales<V, WeightsIQ3_S, 8>(in.words + 26, out);
  }
};

}  // namespace
}  // namespace trivet

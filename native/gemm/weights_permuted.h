// The weights of weights_grid.h, and TQ1_0, where V looks bytes up in tables of hundreds: entries of a grid
// are numbers of levels, of which a sign and a level are looked up.
#pragma once

#include "gemm/weights_grid.h"
#include "unrolled.h"

namespace trivet {
namespace {

// Of the number of a level in kLevelBits bits, then a sign: kOffset plus or minus the level. Higher bits do
// not matter.
template <int kOffset, int kLevelBits, std::size_t kLevels>
constexpr std::array<std::uint8_t, 64> signed_levels(const std::array<std::uint8_t, kLevels>& levels) {
  std::array<std::uint8_t, 64> table = {};
  for (int i = 0; i < 64; ++i) {
    const std::size_t number = i & ((1 << kLevelBits) - 1);
    const int level = number < kLevels ? levels[number] : 0;
    table[i] = static_cast<std::uint8_t>(i >> kLevelBits & 1 ? kOffset - level : kOffset + level);
  }
  return table;
}

// Seven bits, and an eighth that makes the number of set bits even.
constexpr std::array<std::uint8_t, 128> kEvenSigns = [] {
  std::array<std::uint8_t, 128> table = {};
  for (int i = 0; i < 128; ++i) table[i] = static_cast<std::uint8_t>(i | __builtin_parity(i) << 7);
  return table;
}();

// A byte of signs of seven bits in each byte.
template <class V>
typename V::Bytes even_signs(typename V::Bytes sevens) {
  return V::template entries<128>(kEvenSigns.data(), sevens, sevens);
}

// A grid format W, whose quads are decoded by Format<V>::quad. What they share the compiler finds, which sees
// a group, 32 columns, at a time.
template <class V, template <class> class Format, class W, int kRunsOfGroup>
struct Permuted : W {
  using typename W::Panel;
  static constexpr int kGroups = 8, kRuns = kRunsOfGroup, kQuads = 8 / kRuns;

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) {
    for (int group = 0; group < kGroups; ++group, out += 8) {
      fetch_part<V, sizeof in>(&in, group, kGroups);
      // Stores among the look-ups would make the compiler repeat them.
      typename V::Bytes quads[8];
      unrolled<8>([&](auto q) { quads[q] = Format<V>::quad(&in, group, q / kQuads, q % kQuads); });
      unrolled<8>([&](auto q) { V::store_bytes(out[q], quads[q]); });
    }
  }
};

// The first or second four of eight values: byte g of each lane of `low` is the number of their entry, which
// has its other bits in `high`. Signs are bit 2 of each byte of `signs`.
template <class V, int kCount>
typename V::Bytes half_of_eight(const GridCodes<kCount>& codes, typename V::Bytes low, typename V::Bytes high,
                                int g, int half, const std::array<std::uint8_t, 64>& levels,
                                typename V::Bytes signs) {
  const auto numbers = V::template entries<kCount>(half == 0 ? codes.first : codes.second, low, high);
  return V::entries(levels, V::template choose<3>(V::template fields<2>(numbers, 8 * g), signs));
}

constexpr auto kSignedIQ2 = signed_levels<43, 2>(kLevelsIQ2);

// The same, with byte g of each lane of `signs` for the eight.
template <class V, int kCount>
typename V::Bytes half_iq2(const GridCodes<kCount>& codes, typename V::Bytes low, typename V::Bytes high,
                           int g, int half, typename V::Bytes signs) {
  return half_of_eight<V>(codes, low, high, g, half, kSignedIQ2,
                          V::template fields<1>(signs, 8 * g + 4 * half - 2));
}

template <class V>
struct PermutedIQ2_XXS : Permuted<V, PermutedIQ2_XXS, WeightsIQ2_XXS<V>, 1> {
  static typename V::Bytes quad(const PanelIQ2_XXS* in, int group, int, int v) {
    const auto numbers = V::load_lanes(in->words[2 * group]);
    const auto signs = V::template fields<7>(V::load_lanes(in->words[2 * group + 1]), 0);
    return half_iq2<V>(kGridCodesIQ2_XXS, numbers, numbers, v / 2, v % 2, even_signs<V>(signs));
  }
};

template <class V>
struct PermutedIQ2_XS : Permuted<V, PermutedIQ2_XS, WeightsIQ2_XS<V>, 2> {
  // A half of a word has the number of an entry in nine bits, then seven signs.
  static typename V::Bytes quad(const PanelIQ2_XS* in, int group, int run, int v) {
    const auto even = V::broadcast(0x00ff00ff);
    const auto first = V::load_lanes(in->words[2 * group]), second = V::load_lanes(in->words[2 * group + 1]);
    const auto low = V::select(even, first, V::shift_left(second, 8)),
               high = V::select(even, V::shift_right(first, 8), second);
    return half_iq2<V>(kGridCodesIQ2_XS, low, high, v / 2 * 2 + run, v % 2,
                       even_signs<V>(V::shift_right(high, 1)));
  }
};

template <class V>
struct PermutedIQ2_S : Permuted<V, PermutedIQ2_S, WeightsIQ2_S<V>, 2> {
  static typename V::Bytes quad(const PanelIQ2_S* in, int group, int run, int v) {
    const auto high = V::shift_right(V::load_lanes(in->words[16 + group / 4]), group % 4 * 8);
    return half_iq2<V>(kGridCodesIQ2_S, V::load_lanes(in->words[group]), V::template fields<2>(high, 0),
                       2 * run + v / 2, v % 2, V::load_lanes(in->words[8 + group]));
  }
};

// Four values of eight levels: byte v % 4 of each lane of `low` is the number of their entry, which has its
// other bits in `high`; `signs` has those of eight quads.
template <class V, int kCount>
typename V::Bytes quad_iq3(const GridCodes<kCount>& codes, typename V::Bytes low, typename V::Bytes high,
                           int v, const std::array<std::uint8_t, 64>& levels, typename V::Bytes signs) {
  const auto first = V::template fields<2>(V::template entries<kCount>(codes.first, low, high), v % 4 * 8),
             second =
                 V::template fields<1>(V::template entries<kCount>(codes.second, low, high), v % 4 * 8 - 2);
  return V::entries(levels, V::template choose<7>(V::template choose<3>(first, second),
                                                  V::template fields<1>(signs, 4 * v - 3)));
}

template <class V>
struct PermutedIQ3_XXS : Permuted<V, PermutedIQ3_XXS, WeightsIQ3_XXS<V>, 1> {
  static constexpr auto kLevels = signed_levels<PermutedIQ3_XXS::kOffset, 3>(kLevelsIQ3_XXS);

  static typename V::Bytes quad(const PanelIQ3_XXS* in, int group, int, int v) {
    const auto numbers = V::load_lanes(in->words[2 * group + v / 4]);
    const auto signs = V::template fields<7>(V::load_lanes(in->words[16 + group]), 0);
    return quad_iq3<V>(kGridCodesIQ3_XXS, numbers, numbers, v, kLevels, even_signs<V>(signs));
  }
};

template <class V>
struct PermutedIQ3_S : Permuted<V, PermutedIQ3_S, WeightsIQ3_S<V>, 1> {
  static constexpr auto kLevels = signed_levels<PermutedIQ3_S::kOffset, 3>(kLevelsIQ3_S);

  static typename V::Bytes quad(const PanelIQ3_S* in, int group, int, int v) {
    const auto high = V::shift_right(V::load_lanes(in->words[16 + group / 4]), group % 4 * 8);
    return quad_iq3<V>(kGridCodesIQ3_S, V::load_lanes(in->words[2 * group + v / 4]),
                       V::template fields<1>(high, v / 4 * 4), v, kLevels,
                       V::load_lanes(in->words[18 + group]));
  }
};

// Of IQ1: a sign takes 2 from what is 1 more than the offset.
constexpr std::array<std::uint8_t, 64> kSignedIQ1 = [] {
  std::array<std::uint8_t, 64> table = {};
  for (int i = 0; i < 64; ++i) {
    table[i] = static_cast<std::uint8_t>((i % 4 < 3 ? kLevelsIQ1[i % 4] : 0) + (i & 4 ? 0 : 2));
  }
  return table;
}();

// Of a group's 16 bits every eight columns have kBitsEach; their sign is the last of these, or of all.
template <class V, int kBitsEach, class P>
typename V::Bytes half_iq1(const P& in, int group, int g, int half) {
  const auto high = V::shift_right(V::load_lanes(in.words[8 + group / 2]), group % 2 * 16);
  return half_of_eight<V>(kGridCodesIQ1, V::load_lanes(in.words[group]),
                          V::template fields<kBitsEach>(high, 0), g, half, kSignedIQ1,
                          V::template fields<0>(high, (kBitsEach == 4 ? 4 * g + 3 : 15) - 2));
}

template <class V>
struct PermutedIQ1_S : Permuted<V, PermutedIQ1_S, WeightsIQ1_S<V>, 1> {
  static typename V::Bytes quad(const PanelIQ1_S* in, int group, int, int v) {
    return half_iq1<V, 3>(*in, group, v / 2, v % 2);
  }
};

template <class V>
struct PermutedIQ1_M : Permuted<V, PermutedIQ1_M, WeightsIQ1_M<V>, 2> {
  static typename V::Bytes quad(const PanelIQ1_M* in, int group, int run, int v) {
    return half_iq1<V, 4>(*in, group, 2 * run + v / 2, v % 2);
  }
};

// The digits of a byte, the highest first: two bits for each of four, then the fifth. See WeightsTQ1_0.
constexpr GridCodes<256> kDigits = [] {
  GridCodes<256> digits = {};
  for (int i = 0; i < 256; ++i) {
    for (int n = 0, rest = i; n < 5; ++n, rest = rest * 3 & 255) {
      const auto digit = static_cast<std::uint8_t>(rest * 3 >> 8);
      if (n < 4) digits.first[i] |= static_cast<std::uint8_t>(digit << 2 * n);
      if (n == 4) digits.second[i] = digit;
    }
  }
  return digits;
}();

template <class V>
struct PermutedTQ1_0 : WeightsTQ1_0<V> {
  template <int kDigitsEach>
  static void unpack(const PanelTQ1_0& in, int from, int count, std::uint8_t (*out)[64]) {
    for (int w = 0; w < count; ++w) {
      const auto bytes = load_word_quads<V>(in.words[from + w]);
      const auto four = V::template entries<256>(kDigits.first, bytes, bytes);
      unrolled<4>([&](auto n) { V::store_bytes(out[n * count + w], V::bits(four, 2 * n, 3)); });
      if constexpr (kDigitsEach == 5) {
        V::store_bytes(out[4 * count + w], V::template entries<256>(kDigits.second, bytes, bytes));
      }
    }
  }

  static void unpack(const PanelTQ1_0& in, std::uint8_t (*out)[64]) {
    fetch_part<V, sizeof in>(&in, 0, 1);
    unpack<5>(in, 0, 8, out);
    unpack<5>(in, 8, 4, out + 40);
    unpack<4>(in, 12, 1, out + 60);
  }
};

// Of which there are weights here.
#define TRIVET_PERMUTED_FORMATS(X) \
  X(IQ1_S)                         \
  X(IQ1_M)                         \
  X(IQ2_XXS)                       \
  X(IQ2_XS)                        \
  X(IQ2_S)                         \
  X(IQ3_XXS)                       \
  X(IQ3_S)                         \
  X(TQ1_0)

}  // namespace
}  // namespace trivet

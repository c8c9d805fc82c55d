// The weights of weights_grid.h and weights_digits.h where V looks bytes up in tables of hundreds, which are
// permutations of the tables' bytes.
//
// A grid's entries are numbers of levels, of which a level and a sign are looked up. What a look-up gives are
// those of columns that lie 8 apart, or 4: quads, where activations are in that order, too (ColumnOrder).
#pragma once

#include "gemm/weights_digits.h"
#include "gemm/weights_grid.h"
#include "unrolled.h"

namespace trivet {
namespace {

// Of the number of a level in kBits bits from bit `at` on, and a sign at bit `sign`: kOffset plus or minus
// the level. Other bits do not matter.
template <int kOffset, int kBits, std::size_t kLevels>
constexpr std::array<std::uint8_t, 64> signed_levels(const std::array<std::uint8_t, kLevels>& levels, int at,
                                                     int sign) {
  std::array<std::uint8_t, 64> table = {};
  for (int i = 0; i < 64; ++i) {
    const std::size_t number = i >> at & ((1 << kBits) - 1);
    const int level = number < kLevels ? levels[number] : 0;
    table[i] = static_cast<std::uint8_t>(i >> sign & 1 ? kOffset - level : kOffset + level);
  }
  return table;
}

// By seven of them: the eighth makes their number even.
constexpr std::array<std::uint8_t, 128> kEvenSigns = [] {
  std::array<std::uint8_t, 128> table = {};
  for (int i = 0; i < 128; ++i) table[i] = static_cast<std::uint8_t>(i | __builtin_parity(i) << 7);
  return table;
}();

// Signs of four values in each byte: in the low four bits, and in the high four. The others have no meaning.
template <class V>
struct Signs {
  typename V::Bytes low, high;

  // The low or the high half of those of eight, or with kEven of seven.
  template <bool kEven>
  static Signs half(typename V::Bytes signs, int which) {
    if constexpr (requires { V::template twice_nibble<kEven>(signs, 0); }) {
      const auto twice = V::template twice_nibble<kEven>(signs, 4 * which);
      return {twice, twice};
    } else {
      if constexpr (kEven) signs = V::entries(kEvenSigns, signs);
      if (which == 0) return {signs, V::shift_left(signs, 4)};
      return {V::shift_right(signs, 4), signs};
    }
  }

  // Of bytes of seven, the first two or the last two: those of one run of sixteen columns.
  static Signs of_run(typename V::Bytes sevens, int run) {
    const auto first = half<true>(sevens, 0), second = half<true>(sevens, 1);
    if (run == 0) return {V::low_halves(first.low, second.low), V::low_halves(first.high, second.high)};
    return {V::high_halves(first.low, second.low), V::high_halves(first.high, second.high)};
  }
};

// A grid format W, whose quads are decoded by Self::quad_of: quad v of half `half` of a group of 32 columns.
// What they share the compiler finds.
template <class V, class Self, class W, ColumnOrder kColumnOrder>
struct Permuted : W {
  using typename W::Panel;
  static constexpr ColumnOrder kOrder = kColumnOrder;
  static constexpr int kDirectRows = 8;
  static constexpr int kGroups = 8, kRuns = W::kRuns / 8, kQuads = W::kQuads;

  static typename V::Bytes quad(const Panel* in, int group, int run, int v) {
    return Self::quad_of(*in, group, (run * kQuads + v) / 4, v % 4);
  }

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) {
    for (int group = 0; group < kGroups; ++group, out += 8) {
      fetch_part<V, sizeof in, kGroups>(&in, group);
      // Stores among the look-ups would make the compiler repeat them.
      typename V::Bytes quads[8];
      unrolled<8>([&](auto q) { quads[q] = Self::quad_of(in, group, q / 4, q % 4); });
      unrolled<8>([&](auto q) { V::store_bytes(out[q], quads[q]); });
    }
  }
};

// Of IQ2: two bits for each of values 0 to 3 number their levels; those of value 3 are moved to the place of
// value 2. The sign of value 0 is bit 4, of Signs::high, those of the others their own bits of Signs::low.
constexpr std::array<std::uint8_t, 64> kSignedIQ2[4] = {
    signed_levels<kOffsetIQ2, 2>(kLevelsIQ2, 0, 4), signed_levels<kOffsetIQ2, 2>(kLevelsIQ2, 2, 1),
    signed_levels<kOffsetIQ2, 2>(kLevelsIQ2, 4, 2), signed_levels<kOffsetIQ2, 2>(kLevelsIQ2, 4, 3)};

// Quad v of four levels in each byte.
template <class V>
typename V::Bytes quad_iq2(typename V::Bytes codes, int v, const Signs<V>& signs) {
  const auto numbers = v == 3 ? V::shift_right(codes, 2) : codes;
  const auto mask = V::splat(v == 3 ? 3 << 4 : 3 << 2 * v);
  return V::entries(kSignedIQ2[v], V::select(mask, numbers, v == 0 ? signs.high : signs.low));
}

// Those of a run of sixteen columns: of the first or the last two of four entries, whose numbers have the low
// bytes `low` and from bit `bit` of `high` on more.
template <class V, int kCount>
typename V::Bytes codes_of_run(const GridCodes<kCount>& codes, typename V::Bytes low, typename V::Bytes high,
                               int bit, int run) {
  const auto first = V::template entries<kCount>(codes.first, low, high, bit),
             second = V::template entries<kCount>(codes.second, low, high, bit);
  return run == 0 ? V::low_halves(first, second) : V::high_halves(first, second);
}

template <class V>
struct PermutedIQ2_XXS : Permuted<V, PermutedIQ2_XXS<V>, WeightsIQ2_XXS<V>, ColumnOrder::by32> {
  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ2_XXS& in, int group, int half, int v) {
    const auto index = V::load_lanes(in.words[2 * group]);
    const auto signs = Signs<V>::template half<true>(V::load_lanes(in.words[2 * group + 1]), half);
    const auto& codes = half == 0 ? kGridCodesIQ2_XXS.first : kGridCodesIQ2_XXS.second;
    return quad_iq2<V>(V::template entries<256>(codes, index, index, 0), v, signs);
  }
};

template <class V>
struct PermutedIQ2_XS : Permuted<V, PermutedIQ2_XS<V>, WeightsIQ2_XS<V>, ColumnOrder::by16> {
  static constexpr int kDirectRows = 1;  // the sums of more leave too few registers

  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ2_XS& in, int group, int run, int v) {
    const auto low = V::load_lanes(in.words[2 * group]), high = V::load_lanes(in.words[2 * group + 1]);
    return quad_iq2<V>(codes_of_run<V>(kGridCodesIQ2_XS, low, high, 7, run), v, Signs<V>::of_run(high, run));
  }
};

// Of IQ3: three bits for each of four values; a table has those of 3 and 0, or of 1 and 2.
template <int kOffset>
constexpr std::array<std::array<std::uint8_t, 64>, 4> signed_iq3(const std::array<std::uint8_t, 8>& levels) {
  return {signed_levels<kOffset, 3>(levels, 3, 0), signed_levels<kOffset, 3>(levels, 0, 5),
          signed_levels<kOffset, 3>(levels, 3, 2), signed_levels<kOffset, 3>(levels, 0, 3)};
}

// Quad v of four entries, whose numbers have the low bytes `low` and bit `bit` of `high`.
template <class V, int kCount>
typename V::Bytes quad_iq3(const GridCodes<kCount>& codes, typename V::Bytes low, typename V::Bytes high,
                           int bit, int v, const std::array<std::array<std::uint8_t, 64>, 4>& levels,
                           const Signs<V>& signs) {
  const auto& half = v == 0 || v == 3 ? codes.first : codes.second;
  const auto numbers = V::template entries<kCount>(half, low, high, bit);
  const auto mask = V::splat(v % 2 == 0 ? 7 << 3 : 7);
  return V::entries(levels[v], V::select(mask, numbers, v == 1 ? signs.high : signs.low));
}

template <class V>
struct PermutedIQ3_XXS : Permuted<V, PermutedIQ3_XXS<V>, WeightsIQ3_XXS<V>, ColumnOrder::by32> {
  static constexpr auto kLevels = signed_iq3<PermutedIQ3_XXS::kOffset>(kLevelsIQ3_XXS);

  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ3_XXS& in, int group, int half, int v) {
    const auto index = V::load_lanes(in.words[2 * group + half]);
    const auto signs = Signs<V>::template half<true>(V::load_lanes(in.words[16 + group]), half);
    return quad_iq3<V>(kGridCodesIQ3_XXS, index, index, 0, v, kLevels, signs);
  }
};

template <class V>
struct PermutedIQ3_S : Permuted<V, PermutedIQ3_S<V>, WeightsIQ3_S<V>, ColumnOrder::by32> {
  static constexpr auto kLevels = signed_iq3<PermutedIQ3_S::kOffset>(kLevelsIQ3_S);

  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ3_S& in, int group, int half, int v) {
    const auto low = V::load_lanes(in.words[2 * group + half]),
               high = V::load_lanes(in.words[16 + group / 4]);
    return quad_iq3<V>(kGridCodesIQ3_S, low, high, group % 4 * 2 + half, v, kLevels,
                       Signs<V>::template half<false>(V::load_lanes(in.words[18 + group]), half));
  }
};

// By the six highest bits of a byte of kEach digits: the first kHigh of these, and what a byte has for them;
// by what it has more than that: the other digits.
template <int kEach, int kHigh>
struct alignas(64) DigitTables {
  std::array<std::array<std::uint8_t, 64>, kEach> digits;
  std::array<std::uint8_t, 64> skipped;

  // Quad u of words that have such bytes.
  template <class V>
  TRIVET_INLINE typename V::Bytes quad(const std::uint32_t (*words)[kPanelRows], int u) const {
    const auto bytes = load_scales<V>(words[u / kEach]), high = V::shift_right(bytes, 2);
    const int n = u % kEach;
    return V::entries(digits[n], n < kHigh ? high : V::sub_bytes(bytes, V::entries(skipped, high)));
  }
};

// Of trits, times kFactor.
template <int kFactor>
constexpr DigitTables<5, 2> kTrits = [] {
  DigitTables<5, 2> tables = {};
  const auto trit = [](int number) { return static_cast<std::uint8_t>(number % 3 * kFactor); };
  for (int i = 0; i < 64; ++i) {
    const int two = 4 * i / 28;
    tables.digits[0][i] = trit(two / 3);
    tables.digits[1][i] = trit(two);
    tables.skipped[i] = static_cast<std::uint8_t>(28 * two);
    tables.digits[2][i] = trit(i / 9);
    tables.digits[3][i] = trit(i / 3);
    tables.digits[4][i] = trit(i);
  }
  return tables;
}();

// A format W of which a word is kEach quads; Self::quad_of decodes one.
template <class V, class Self, class W, int kEach>
struct Digits : W {
  using typename W::Panel;
  static constexpr int kDirectRows = 8;

  static typename V::Bytes quad(const Panel* in, int, int run, int v) {
    return Self::quad_of(*in, run * W::kQuads + v);
  }

  static void unpack(const Panel& in, std::uint8_t (*out)[64]) {
    constexpr int kAll = kStep / 4, kWords = (kAll + kEach - 1) / kEach;
    unrolled<kWords>([&](auto w) {
      constexpr int kFirst = kEach * w, kCount = kFirst + kEach > kAll ? kAll - kFirst : kEach;
      fetch_part<V, sizeof in, kWords>(&in, w);
      typename V::Bytes quads[kEach];  // see Permuted::unpack
      unrolled<kCount>([&](auto n) { quads[n] = Self::quad_of(in, kFirst + n); });
      unrolled<kCount>([&](auto n) { V::store_bytes(out[kFirst + n], quads[n]); });
    });
  }
};

// Trits that are the weights.
template <class V, class W>
struct PlainTrits : Digits<V, PlainTrits<V, W>, W, 5> {
  TRIVET_INLINE static typename V::Bytes quad_of(const typename W::Panel& in, int u) {
    return kTrits<1>.template quad<V>(in.words, u);
  }
};
template <class V>
using PermutedTQ1_0 = PlainTrits<V, WeightsTQ1_0<V>>;
template <class V>
using PermutedIQ1_S = PlainTrits<V, WeightsIQ1_S<V>>;

template <class V>
using PermutedIQ1_M = PlainTrits<V, WeightsIQ1_M<V>>;

// IQ1_M with the eighth that a sign adds or takes off in the weights, which are between -9 and 9 eighths.
template <class V>
struct EighthsIQ1_M : Digits<V, EighthsIQ1_M<V>, WeightsIQ1_M<V>, 5> {
  static constexpr int kBits = 5, kMost = 18, kOffset = 9, kOffsetColumns = kStep / WeightsIQ1_M<V>::kRuns;

  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ1_M& in, int u) {
    const auto positive =
        V::where_clear(V::load_lanes(in.signs), u / 4 % 4 * 8 + u / 16 * 2 + u / 2 % 2, V::splat(2));
    return V::either(kTrits<8>.template quad<V>(in.words, u), positive);
  }

  template <class Scratch>
  static void scales(const PanelIQ1_M& in, Scratch& out) {
    for (int g = 0; g < 4; ++g) {
      widen_offset<V, EighthsIQ1_M>(odd<V>(load_scales<V>(in.scales[g / 2]), g % 2 * 3, 7), g, out);
    }
    WeightsIQ1_M<V>::store_d(in, out.d);
  }
};

// Of digits of base 6: the weights that they stand for.
constexpr DigitTables<3, 1> kSixes = [] {
  DigitTables<3, 1> tables = {};
  for (int i = 0; i < 64; ++i) {
    tables.digits[0][i] = kWeightsIQ2[4 * i / 44];
    tables.skipped[i] = static_cast<std::uint8_t>(4 * i / 44 * 44);
    tables.digits[1][i] = kWeightsIQ2[i / 6];
    tables.digits[2][i] = kWeightsIQ2[i % 6];
  }
  return tables;
}();

template <class V>
struct PermutedIQ2_S : Digits<V, PermutedIQ2_S<V>, WeightsIQ2_S<V>, 3> {
  TRIVET_INLINE static typename V::Bytes quad_of(const PanelIQ2_S& in, int u) {
    if (u == 3 * kSixWords) return WeightsIQ2_S<V>::last_quad(in);
    return kSixes.template quad<V>(in.words, u);
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

// ggml's tables of the IQ1, IQ2 and IQ3 formats: an entry has the magnitudes of eight or four values, a byte
// each, the first one lowest; signs are stored apart. The tables are constants of the file format.
#pragma once

#include <array>
#include <cstdint>

namespace trivet {

extern const std::array<std::uint64_t, 2048> kGridIQ1;  // 8 * (value + 1), and the value is -1, 0 or 1
extern const std::array<std::uint64_t, 256> kGridIQ2_XXS;
extern const std::array<std::uint64_t, 512> kGridIQ2_XS;
extern const std::array<std::uint64_t, 1024> kGridIQ2_S;
extern const std::array<std::uint32_t, 256> kGridIQ3_XXS;  // half the value
extern const std::array<std::uint32_t, 512> kGridIQ3_S;

// Of a grid of 512 entries, those of a low byte, for both values of the bit above it.
template <class Entry>
using GridPairs = std::array<std::array<Entry, 2>, 256>;
extern const GridPairs<std::uint64_t> kGridPairsIQ2_XS;
extern const GridPairs<std::uint32_t> kGridPairsIQ3_S;

// The levels that entries of a grid choose from.
inline constexpr std::array<std::uint8_t, 3> kLevelsIQ1 = {0, 8, 16}, kLevelsIQ2 = {8, 25, 43};
inline constexpr std::array<std::uint8_t, 8> kLevelsIQ3_XXS = {2, 6, 10, 14, 18, 22, 26, 31},
                                             kLevelsIQ3_S = {1, 3, 5, 7, 9, 11, 13, 15};

// The entries of a grid as numbers of levels, for look-ups of bytes. Of eight values, two bits for each of
// four, the first one lowest; `second` has those of the last four. Of four values from eight levels three
// bits each: `first` has those of value 3, then 0, `second` those of 1, then 2.
template <int kCount>
struct alignas(64) GridCodes {
  std::uint8_t first[kCount], second[kCount];
};
extern const GridCodes<256> kGridCodesIQ2_XXS;
extern const GridCodes<512> kGridCodesIQ2_XS;
extern const GridCodes<256> kGridCodesIQ3_XXS;
extern const GridCodes<512> kGridCodesIQ3_S;

// The values of IQ4_NL and IQ4_XS, and those of MXFP4 and NVFP4: twice those of a four-bit float (1 sign, 2
// exponent, 1 mantissa bits).
inline constexpr std::array<std::int8_t, 16> kValuesIQ4 = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                           1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr std::array<std::int8_t, 16> kValuesFP4 = {0, 1,  2,  3,  4,  6,  8,  12,
                                                           0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace trivet

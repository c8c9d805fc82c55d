// The packed bytes of a panel: 16 rows of a weight matrix.
//
// A vector of 64 bytes holds four consecutive columns (a quad) of each of the 16 rows, [row][column], which
// is what byte dot products of every x86 vector length and the right-hand tile of AMX take. Where it holds
// several quads, they have their own bits of every byte, or are digits of it; in grid formats, it holds
// indices. Rows past the end of the matrix have scale 0.
//
// A panel is as large as its blocks in the file, but for rounding up to 64 bytes and for unpacked scales: at
// most 4 % more. IQ1_S and IQ2_S take 16 and 17 % more, IQ1_M 14 %; PanelCodedBF16 takes 24 % less.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/matrix.h"

namespace trivet {

inline constexpr int kPanelRows = PackedMatrix::kPanel;

// Blocks of up to 128 columns, per 32 columns. What is left of the block, its scales, lies in a stream of its
// own.

// quads[v] has quad v in the low and quad 4 + v in the high nibbles.
struct PanelNibbles {
  std::uint8_t quads[4][64];
};
using PanelQ4_0 = PanelNibbles;
using PanelQ4_1 = PanelNibbles;
using PanelIQ4_NL = PanelNibbles;
using PanelMXFP4 = PanelNibbles;
// Two runs of 16 columns: quads[2r + v] has quad v of run r in the low, quad 2 + v in the high nibbles.
using PanelNVFP4 = PanelNibbles;

// As PanelNibbles; bit v of high is the fifth bit of quad v.
struct PanelFiveBits {
  std::uint8_t quads[4][64];
  std::uint8_t high[64];
};
using PanelQ5_0 = PanelFiveBits;
using PanelQ5_1 = PanelFiveBits;

// Value + 128.
struct PanelQ8_0 {
  std::uint8_t quads[8][64];
};

// Bit v is quad v.
struct PanelQ1_0 {
  std::uint8_t bits[64];
};

// quads[v / 4] has quad v in the bits 2(v % 4).
struct PanelQ2_0 {
  std::uint8_t quads[2][64];
};

// Blocks of 256 columns. Byte j of scales[g][r] and mins[g][r] is that of run 4g + j of row r: the even and
// the odd bytes of a lane give the pairs (0, 2) and (1, 3), in 16 bits each. In the K formats scales go
// first, as they are used first: memory is read in order.

// quads[8h + v] has quad v of the four quarters of half h, two bits each; scales has GGUF's bytes.
struct alignas(64) PanelQ2_K {
  std::uint32_t scales[4][kPanelRows];
  std::uint16_t d[kPanelRows], dmin[kPanelRows];
  std::uint8_t quads[16][64];
};

// quads as in Q2_K. The third bit of quad v of quarter k of half h is bit k (for v >= 4, bit 4 + k) of
// high[4h + v % 4]. scales has GGUF's 12 bytes.
struct alignas(64) PanelQ3_K {
  std::uint32_t scales[3][kPanelRows];
  std::uint16_t d[kPanelRows];
  alignas(64) std::uint8_t quads[16][64];
  std::uint8_t high[8][64];
};

// quads[8p + v] has quad v of run 2p in the low, of run 2p + 1 in the high nibbles.
struct alignas(64) PanelQ4_K {
  std::uint32_t scales[2][kPanelRows], mins[2][kPanelRows];
  std::uint16_t d[kPanelRows], dmin[kPanelRows];
  std::uint8_t quads[32][64];
};

// As Q4_K; the fifth bit of quad v of run 2p + i is bit 2(v % 4) + i of high[2p + v / 4].
struct alignas(64) PanelQ5_K {
  std::uint32_t scales[2][kPanelRows], mins[2][kPanelRows];
  std::uint16_t d[kPanelRows], dmin[kPanelRows];
  std::uint8_t quads[32][64];
  std::uint8_t high[8][64];
};

// The bytes of BlockQ6_K in quads; scales are signed.
struct alignas(64) PanelQ6_K {
  std::uint32_t scales[4][kPanelRows];
  std::uint16_t d[kPanelRows];
  alignas(64) std::uint8_t low[32][64];
  std::uint8_t high[16][64];
};

// Run k as PanelNibbles in quads[4k, 4k + 4); scales are signed.
struct alignas(64) PanelIQ4_XS {
  std::uint32_t scales[2][kPanelRows];
  std::uint16_t d[kPanelRows];
  alignas(64) std::uint8_t quads[32][64];
};

// Words of all rows; each block's d lies in a stream of its own, as the scales of smaller blocks do.
template <int kWords>
struct alignas(64) PanelWords {
  std::uint32_t words[kWords][kPanelRows];
};
template <class Panel>
inline constexpr bool kDApart = false;
template <int kWords>
inline constexpr bool kDApart<PanelWords<kWords>> = true;

// GGUF's bytes, four of each row at a time.
using PanelTQ2_0 = PanelWords<16>;

// Five ternary digits in a byte: 28 times the number of the first two, so that the six highest bits tell
// them, and the number of the other three. Quad 5w + n is digit n of words[w]. As indices of a grid of 2,048
// entries, the panels of IQ1 would take 13 % less memory, and more than twice the time.
inline constexpr int kTritWords = 13;
using PanelTQ1_0 = PanelWords<kTritWords>;
// After the trits a word of scales: run b has its scale and above it its sign in the low nibble of byte b,
// run 4 + b in the high one.
using PanelIQ1_S = PanelWords<kTritWords + 1>;
// Byte j of `signs` has those of runs j, 4 + j, 8 + j and 12 + j, of the first eight columns and the last,
// from its lowest bit on. Byte j of scales[k] has the scales of runs 8k + j and 8k + 4 + j, three bits each,
// and above them bits 4j + 2k and 4j + 2k + 1 of d.
struct alignas(64) PanelIQ1_M {
  std::uint32_t words[kTritWords][kPanelRows], signs[kPanelRows];
  std::uint32_t scales[2][kPanelRows];
};

// Likewise three digits of base 6, the number of a level (kLevelsIQ2) and 3 more if it is negative: 44 times
// the first, so that the six highest bits of a byte tell it, and the number of the others; of the last quad
// each is a nibble of `last`. Byte j of scales[k] has the scales of runs 8k + j and 8k + 4 + j, a nibble
// each. Grids of 1,024 entries would take 15 % less memory, and twice the time.
inline constexpr int kSixWords = 21;
struct alignas(64) PanelIQ2_S {
  std::uint32_t words[kSixWords][kPanelRows];
  std::uint32_t scales[2][kPanelRows];
  std::uint16_t d[kPanelRows], last[kPanelRows];
};

// Of 32 columns, run k, four times eight have the low bytes of their indices in words[2k] and their seven
// signs in the bytes of words[2k + 1]; the top bit of byte g of that is bit k % 4 of the scale of run
// k / 4 * 4 + g.
using PanelIQ2_XXS = PanelWords<16>;
// Likewise, but the top bit is that of the index; then two words of scales as in PanelIQ2_S.
using PanelIQ2_XS = PanelWords<18>;
// Indices of four columns: byte b of words[2k + m] is for columns 8b + 4m on of run k; then eight words of
// signs and scales as in IQ2_XXS.
using PanelIQ3_XXS = PanelWords<24>;
// The low bytes of indices likewise; two words of their high bits, those of words[2k + m] in bit 2(k % 4) + m
// of each byte of word k / 4 of these; eight of signs as in GGUF, and one of scales as in PanelIQ2_S.
using PanelIQ3_S = PanelWords<27>;

// BF16 in 12 bits, per 256 columns; the last step of a panel may have fewer groups. Of the upper byte of a
// bfloat16, its sign and seven bits of its exponent, nearly all weights of a step have one of 16: two signs
// of eight exponents, which span 16 octaves. A code of four bits says which; the few others are there
// besides.
//
// A group is 8 columns, four rows of a tile as BF16 has them. Byte 16 q + 8 t + w of lower[h] and the low
// (h = 0) or high half of that of codes are of the bfloat16 number 8 q + w of row 2 h + t: so 16 bytes of
// both, interleaved, are 16 of a row and 16 of the next.
struct alignas(64) PanelCodedBF16 {
  static constexpr int kGroups = 32, kMostOthers = 11;

  struct Group {
    std::uint8_t codes[64], lower[2][64];
  };

  std::uint8_t upper[16];  // by code
  std::uint16_t count;     // of others
  struct {
    std::uint16_t at, bits;  // number among those of the step, and the bfloat16
  } others[kMostOthers];
  alignas(64) Group groups[kGroups];

  static int groups_of(std::int64_t columns) { return static_cast<int>((columns + 7) / 8); }
};

// Where the parts of a panel are:
//   F32, F16               [column][16 rows]
//   BF16                   [column / 2][16 rows][2], the right-hand tile of AMX; an odd last column is paired
//                          with 0; or [step]PanelCodedBF16
//   blocks of 256 columns  [block]Panel*; with kDApart at `steps`, behind [block][16 rows] of d
//   smaller blocks         [block][scale or minimum][16 rows], then at `steps` [32 columns]Panel*
// Scales go first so that they, too, are fetched ahead by what is read before them: the end of the panel
// before.
struct PanelLayout {
  std::size_t bytes;  // of a panel, a multiple of 64
  std::size_t steps;  // offset of the columns, a multiple of 64
};

PanelLayout panel_layout(Format format, std::int64_t columns);
PanelLayout coded_layout(std::int64_t columns);

// Packs one panel; rows[r] is the first GGUF byte of row r of the panel.
void pack_panel(Format format, const std::byte* const rows[kPanelRows], std::int64_t columns,
                std::byte* panel);

}  // namespace trivet

// The packed bytes of a panel: 16 rows of a weight matrix.
//
// Everywhere a vector of 64 bytes holds four consecutive columns (a quad) of each of the 16 rows,
// [row][column], which is what byte dot products of every x86 vector length and the right-hand tile of AMX
// take. Rows past the end of the matrix have scale 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/matrix.h"

namespace trivet {

inline constexpr int kPanelRows = PackedMatrix::kPanel;

// Q4_0, per 32 columns: quads[v] has quad v in the low and quad 4 + v in the high nibbles, value + 8.
struct PanelQ4_0 {
  std::uint8_t quads[4][64];
};

// Q8_0, per 32 columns: value + 128.
struct PanelQ8_0 {
  std::uint8_t quads[8][64];
};

// Q4_K, per 256 columns: quads[8p + v] has quad v of run 2p in the low, of run 2p + 1 in the high nibbles.
// Byte j of scales[g][r] and mins[g][r] is that of run 4g + j of row r: the even and the odd bytes of a lane
// give the pairs (0, 2) and (1, 3), in 16 bits each.
struct alignas(64) PanelQ4_K {
  std::uint8_t quads[32][64];
  std::uint32_t scales[2][kPanelRows], mins[2][kPanelRows];
  std::uint16_t d[kPanelRows], dmin[kPanelRows];
};

// Q6_K, per 256 columns: the bytes of BlockQ6_K in quads. scales as for Q4_K, but signed.
struct alignas(64) PanelQ6_K {
  std::uint8_t low[32][64];
  std::uint8_t high[16][64];
  std::uint32_t scales[4][kPanelRows];
  std::uint16_t d[kPanelRows];
};

static_assert(sizeof(PanelQ4_K) == 2368 && sizeof(PanelQ6_K) == 3392);

// Where the parts of a panel are:
//   F32, F16     [column][16 rows]
//   BF16         [column / 2][16 rows][2], the right-hand tile of AMX; an odd last column is paired with 0
//   Q4_0, Q8_0   [block]PanelQ*, then at `scales` [block][16 rows] float16: apart, so that quads stay aligned
//   Q4_K, Q6_K   [step]PanelQ*
struct PanelLayout {
  std::size_t bytes;   // of a panel, a multiple of 64
  std::size_t scales;  // offset of the second stream
};

PanelLayout panel_layout(Format format, std::int64_t columns);

// Packs one panel; rows[r] is the first GGUF byte of row r of the panel.
void pack_panel(Format format, const std::byte* const rows[kPanelRows], std::int64_t columns,
                std::byte* panel);

}  // namespace trivet

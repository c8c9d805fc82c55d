// BF16 weights in 12 bits, without loss: see PanelCodedBF16. To unpack them takes less time than to read the
// other four bits from memory. An instruction set has this in place of StoredTiles.
#pragma once

#include "gemm/kernel_tiles_bf16.h"
#include "gemm/panel.h"

namespace trivet {
namespace {

using Coded = PanelCodedBF16;

// `count` columns of a panel's rows, at most 32, as the rows of a tile: two columns of all rows each. What is
// past the last column is 0.
inline void load_pairs(const std::byte* const rows[kPanelRows], std::int64_t column, std::int64_t count,
                       __m512i (&out)[kTileRows]) {
  __m512i a[16], b[16];
  for (int r = 0; r < 16; ++r) {
    const std::byte* of_row = rows[r] + 2 * column;
    std::byte padded[kTileBytes] = {};
    if (count < kTileColumns) of_row = static_cast<std::byte*>(__builtin_memcpy(padded, of_row, 2 * count));
    a[r] = _mm512_loadu_si512(of_row);
  }
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
  }
  // Then a[r + i] has pair i of each quarter of four rows from r on.
  for (int r = 0; r < 16; r += 4) {
    for (int i = 0; i < 2; ++i) {
      a[r + 2 * i] = _mm512_unpacklo_epi64(b[r + i], b[r + 2 + i]);
      a[r + 2 * i + 1] = _mm512_unpackhi_epi64(b[r + i], b[r + 2 + i]);
    }
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // quarters
  for (int i = 0; i < 4; ++i) {
    const __m512i even[] = {_mm512_shuffle_i32x4(a[i], a[4 + i], kEven),
                            _mm512_shuffle_i32x4(a[8 + i], a[12 + i], kEven)};
    const __m512i odd[] = {_mm512_shuffle_i32x4(a[i], a[4 + i], kOdd),
                           _mm512_shuffle_i32x4(a[8 + i], a[12 + i], kOdd)};
    out[i] = _mm512_shuffle_i32x4(even[0], even[1], kEven);
    out[4 + i] = _mm512_shuffle_i32x4(odd[0], odd[1], kEven);
    out[8 + i] = _mm512_shuffle_i32x4(even[0], even[1], kOdd);
    out[12 + i] = _mm512_shuffle_i32x4(odd[0], odd[1], kOdd);
  }
}

// Of upper bytes, without their signs.
inline __m512i exponents(__m512i upper) { return _mm512_and_si512(upper, _mm512_set1_epi8(127)); }

// The table of codes by which an upper byte is looked up: a repetition of 16 makes four bits of an index
// count.
inline __m512i table_of(const Coded& step) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(step.upper)));
}

// The exponents that have codes: those from `first` on, but with `zero` 0 in place of the first.
struct CodedExponents {
  int first;
  bool zero;

  void store(std::uint8_t (&upper)[16]) const {
    for (int i = 0; i < 8; ++i) {
      upper[i] = static_cast<std::uint8_t>(i == 0 && zero ? 0 : first + i);
      upper[8 + i] = static_cast<std::uint8_t>(upper[i] | 128);
    }
  }

  // Those of upper bytes; some code where there is none.
  __m512i codes(__m512i upper) const {
    const __m512i above = _mm512_subs_epu8(exponents(upper), _mm512_set1_epi8(static_cast<char>(first)));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi16(upper, 4), _mm512_set1_epi8(8));
    return _mm512_or_si512(_mm512_min_epu8(above, _mm512_set1_epi8(7)), sign);
  }

  // Which upper bytes have none.
  __mmask64 others(__m512i upper, __m512i table) const {
    return ~_mm512_cmpeq_epi8_mask(_mm512_permutexvar_epi8(codes(upper), table), upper);
  }
};

// What has the fewest others, and how many these are. Most often those are the largest exponents; lower ones
// where few weights are much larger than all else.
struct Choice {
  CodedExponents exponents;
  int others;
};
inline Choice best_exponents(const __m512i* upper, int count, Coded& out) {
  __m512i largest = _mm512_setzero_si512();
  for (int i = 0; i < count; ++i) largest = _mm512_max_epu8(largest, exponents(upper[i]));
  alignas(64) std::uint8_t bytes[64];
  _mm512_store_si512(bytes, largest);
  int top = 0;
  for (const std::uint8_t byte : bytes) top = byte > top ? byte : top;

  constexpr int kLowest = 6, kFew = 1;
  Choice best = {{}, 64 * count + 1};
  for (int lower = 0; lower <= kLowest && best.others > kFew; ++lower) {
    for (const bool zero : {false, true}) {
      const CodedExponents tried = {top - lower > 7 ? top - lower - 7 : 0, zero};
      tried.store(out.upper);
      int others = 0;
      for (int i = 0; i < count; ++i) others += __builtin_popcountll(tried.others(upper[i], table_of(out)));
      if (others < best.others) best = {tried, others};
    }
  }
  return best;
}

// A step of `count` columns. False where too many weights have exponents without a code.
inline bool code_step(const std::byte* const rows[kPanelRows], std::int64_t column, int count, Coded& out) {
  __m512i upper[2 * Coded::kGroups];
  const int halves = 2 * Coded::groups_of(count);
  for (int h = 0; h < halves; h += kTileRows / 2) {
    __m512i pairs[kTileRows];
    load_pairs(rows, column + 4 * h, count - 4 * h, pairs);
    for (int i = 0; i < kTileRows / 2 && h + i < halves; ++i) {
      const __m512i a = pairs[2 * i], b = pairs[2 * i + 1], low = _mm512_set1_epi16(255);
      _mm512_store_si512(out.groups[(h + i) / 2].lower[i % 2],
                         _mm512_packus_epi16(_mm512_and_si512(a, low), _mm512_and_si512(b, low)));
      upper[h + i] = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
    }
  }
  const auto [best, others] = best_exponents(upper, halves, out);
  if (others > Coded::kMostOthers) return false;

  best.store(out.upper);
  out.count = 0;
  for (int h = 0; h < halves; h += 2) {
    _mm512_store_si512(out.groups[h / 2].codes,
                       _mm512_or_si512(best.codes(upper[h]), _mm512_slli_epi16(best.codes(upper[h + 1]), 4)));
    for (int i = h; i < h + 2; ++i) {
      for (__mmask64 left = best.others(upper[i], table_of(out)); left != 0; left &= left - 1) {
        const int byte = __builtin_ctzll(left);
        const int pair = 2 * i + byte % 16 / 8, value = byte / 16 * 8 + byte % 8;
        auto& other = out.others[out.count++];
        other.at = static_cast<std::uint16_t>(32 * pair + value);
        other.bits = 0;
        const std::int64_t of_row = 2 * pair + value % 2;
        if (of_row < count) __builtin_memcpy(&other.bits, rows[value / 2] + 2 * (column + of_row), 2);
      }
    }
  }
  return true;
}

inline bool code_panel(const std::byte* const rows[kPanelRows], std::int64_t columns, std::byte* panel) {
  for (std::int64_t c = 0; c < columns; c += kStep, panel += sizeof(Coded)) {
    const int count = columns - c < kStep ? static_cast<int>(columns - c) : kStep;
    if (!code_step(rows, c, count, *reinterpret_cast<Coded*>(panel))) return false;
  }
  return true;
}

// Writes tile `tile` of a step, of which there are `columns`.
inline void unpack_tile(const Coded& step, int tile, int columns, std::byte (*rows)[kTileBytes]) {
  constexpr int kGroups = kTileRows / 4, kValues = kTileRows * kTileColumns;
  const __m512i table = table_of(step);
  const int groups = Coded::groups_of(columns) - kGroups * tile;
  std::byte* const first = rows[0];
  for (int g = 0; g < kGroups; ++g, rows += 4) {
    if (g >= groups) {
      __builtin_memset(rows, 0, 4 * kTileBytes);
      continue;
    }
    const Coded::Group& group = step.groups[kGroups * tile + g];
    const __m512i codes = _mm512_load_si512(group.codes);
    const __m512i upper[] = {_mm512_permutexvar_epi8(codes, table),
                             _mm512_permutexvar_epi8(_mm512_srli_epi16(codes, 4), table)};
    for (int half = 0; half < 2; ++half) {
      const __m512i lower = _mm512_load_si512(group.lower[half]);
      _mm512_store_si512(rows[2 * half], _mm512_unpacklo_epi8(lower, upper[half]));
      _mm512_store_si512(rows[2 * half + 1], _mm512_unpackhi_epi8(lower, upper[half]));
    }
  }
  for (int i = 0; i < step.count; ++i) {
    const int at = step.others[i].at - kValues * tile;
    if (at >= 0 && at < kValues) __builtin_memcpy(first + 2 * at, &step.others[i].bits, 2);
  }
}

// A source of weights for kernel_tiles_bf16.h.
struct CodedTiles {
  using Scratch = ChunkTiles;
  static constexpr int kStepBytes = sizeof(Coded);
  static constexpr int kStepRuns = kStep / kTileColumns;

  static const std::byte* at(const Panels& w, std::int64_t panel, std::int64_t column) {
    return w.data + panel * w.layout.bytes + column / kStep * kStepBytes;
  }

  [[gnu::noinline]] static const std::byte* tiles(const Panels& w, std::int64_t panel, std::int64_t column,
                                                  int count, Scratch& out, FetchAhead& ahead) {
    const std::byte* step = at(w, panel, column);
    for (int c = 0; c < count; c += kStep, step += kStepBytes) {
      const int columns = count - c < kStep ? count - c : kStep;
      for (int t = 0; t * kTileColumns < columns; ++t) {
        unpack_tile(*reinterpret_cast<const Coded*>(step), t, columns, out.tile[c / kTileColumns + t]);
        ahead.step();
      }
    }
    return out.tile[0][0];
  }
};

// Up to two tiles of rows, whose sums stay in tiles: while those of one place in K are multiplied, the
// weights of the next are unpacked. The sums are those of TilePass.
struct FewRows : PassRows {
  // For two places in turn, of two panels.
  struct alignas(64) Unpacked {
    std::byte tile[2][2][kTileRows][kTileBytes];
  };

  void multiply(std::int64_t panel_begin, std::int64_t panel_end) const {
    for (std::int64_t p = panel_begin; p < panel_end; p += 2) {
      TileSums sums;
      const bool two = p + 1 < panel_end;
      if (tiles() == 2) {
        two ? multiply<2, 2>(p, panel_end, sums) : multiply<2, 1>(p, panel_end, sums);
      } else {
        two ? multiply<1, 2>(p, panel_end, sums) : multiply<1, 1>(p, panel_end, sums);
      }
      if (!direct(p, two ? 2 : 1)) store(p, two ? 2 : 1, &sums);
    }
  }

 private:
  template <int kTiles, int kPanels>
  [[gnu::noinline]] void multiply(std::int64_t panel, std::int64_t last, TileSums& sums) const {
    constexpr int kStepTiles = kStep / kTileColumns;
    Unpacked unpacked;
    const std::byte *x0 = x + row(first) * stride, *x1 = x + row(first + (kTiles - 1) * kTileRows) * stride;
    const int all = static_cast<int>((w.columns + kTileColumns - 1) / kTileColumns);
    const auto unpack = [&](int k) {
      const std::int64_t column = k / kStepTiles * kStep;
      const int columns = w.columns - column < kStep ? static_cast<int>(w.columns - column) : kStep;
      for (int n = 0; n < kPanels; ++n) {
        const std::byte* step = CodedTiles::at(w, panel + n, column);
        unpack_tile(*reinterpret_cast<const Coded*>(step), k % kStepTiles, columns, unpacked.tile[k % 2][n]);
      }
    };
    unpack(0);
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    FetchAhead ahead = {};
    for (int k = 0; k < all; ++k) {
      if (k % kStepTiles == 0) {
        ahead =
            fetch_after(panel, last, 0, w.columns, k * kTileColumns, 1, CodedTiles::kStepBytes, kStepTiles);
      }
      const auto& weights = unpacked.tile[k % 2];
      tile_load<6>(weights[0], kTileBytes);
      tile_stream<4>(x0 + k * kTileBytes, stride);
      tile_dot_bf16<0, 4, 6>();
      if constexpr (kPanels == 2) {
        tile_load<7>(weights[1], kTileBytes);
        tile_dot_bf16<1, 4, 7>();
      }
      if constexpr (kTiles == 2) {
        tile_stream<5>(x1 + k * kTileBytes, stride);
        tile_dot_bf16<2, 5, 6>();
        if constexpr (kPanels == 2) tile_dot_bf16<3, 5, 7>();
      }
      if (k + 1 < all) unpack(k + 1);
      ahead.step();
    }
    const bool whole = direct(panel, kPanels);
    float* y0 = whole ? sums_of(0, panel) : sums[0][0][0];
    float* y1 = whole ? sums_of(1, panel) : sums[1][0][0];
    const std::size_t of_row = whole ? ldy * sizeof(float) : kTileBytes;
    const std::int64_t second = whole ? kPanelRows : kTileRows * kPanelRows;
    tile_store<0>(y0, of_row);
    if constexpr (kPanels == 2) tile_store<1>(y0 + second, of_row);
    if constexpr (kTiles == 2) tile_store<2>(y1, of_row);
    if constexpr (kTiles == 2 && kPanels == 2) tile_store<3>(y1 + second, of_row);
  }
};

inline void multiply_coded(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                           std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  CodedTiles::Scratch scratch[2];
  for_each_pass(w, x, stride, m, y, ldy, full_depth_config, kTileChunk, [&](const PassRows& rows) {
    if (rows.few()) {
      FewRows{rows}.multiply(panel_begin, panel_end);
    } else {
      TilePass<CodedTiles>{rows, scratch}.multiply(panel_begin, panel_end);
    }
  });
}

}  // namespace
}  // namespace trivet

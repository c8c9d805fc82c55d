// Products of many rows of int8 by the tiles of AMX. See kernel.h; V is Avx512.
//
// Integer sums are exact in any order, and what follows them is done by the same operations in the same order
// as in kernel_block32.h and kernel_block256.h. So a row has the bits that those give it, and few rows are
// left to them.
//
// A kernel of tiles has
//   config(rows)            shapes of the tiles 0 to 3 (sums), 4 and 5 (activations), 6 and 7 (weights)
//   unpack(w, panel, ..)    decodes a step of a panel to scratch
//   units(count)            parts of a step, multiplied one after another
//   multiply(scratch, ..)   the integer products of a unit with one or two tiles of rows
//   finish(scratch, ..)     acc += these products times their scales
// A unit is finished while tiles multiply the next one: what a tile has just stored is slow to load.
#pragma once

#include "amx.h"
#include "gemm/memory.h"
#include "gemm/vectors_avx512.h"

namespace trivet {
namespace {

// Activation rows per pass over a panel: unpacking a step, or rounding it to bfloat16, costs as much as
// multiplying some 64 rows by it.
constexpr int kTileChunk = 256;

// Rows of activations for one tile. The first `done` are those of an earlier tile too, so that the last tile
// of a product is full: their sums are there already.
struct RowTile {
  const std::byte* x;
  std::size_t stride;
  int rows, done;
  float (*acc)[kPanelRows];  // of row `done`

  template <class Step>
  const Step& step(int row, std::int64_t column) const {
    return reinterpret_cast<const Step*>(x + row * stride)[column / kStep];
  }
};

template <template <class> class Weights>
struct TileKernel32 {
  using V = Avx512;
  using Few = Block32Kernel<V, Weights>;
  using W = Weights<V>;
  using Scratch = typename Few::Scratch;
  static constexpr int kColumns = kStep, kRuns = W::kRuns, kRunColumns = 4 * W::kQuads, kUnitRuns = 4;
  static_assert(!W::kHasMinimum || kRuns == 1);
  using Sums = std::int32_t[kUnitRuns][2][kTileRows][kPanelRows];

  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 4; ++t) config.set(t, rows, kTileBytes);
    config.set(4, rows, kRunColumns);
    config.set(5, rows, kRunColumns);
    config.set(6, W::kQuads, kTileBytes);
    config.set(7, W::kQuads, kTileBytes);
    return config;
  }

  // Weights without their offset fit int8.
  static void unpack(const Panels& w, const std::byte* panel, std::int64_t column, int count, Scratch& out) {
    Few::decode_scales(w, panel, column, count, out);
    Few::unpack(Few::weights(panel + w.layout.steps + column / kStep * Few::kStepBytes), count, out);
    if constexpr (W::kOffset != 0) {
      for (int q = 0; q < count / 4; ++q) {
        V::store_bytes(out.quads[q], V::sub_bytes(V::load_bytes(out.quads[q]), V::splat(W::kOffset)));
      }
    }
  }

  static int units(int count) { return (count / kRunColumns + kUnitRuns - 1) / kUnitRuns; }

  template <int kTiles>
  static void multiply(const Scratch& scratch, const RowTile (&tiles)[2], std::int64_t column, int count,
                       int unit, Sums& sums) {
    const int first = unit * kUnitRuns, runs = count / kRunColumns - first;
    run_product<0, kTiles>(scratch, tiles, column, first, sums[0]);
    if (runs > 1) run_product<1, kTiles>(scratch, tiles, column, first + 1, sums[1]);
    if (runs > 2) run_product<0, kTiles>(scratch, tiles, column, first + 2, sums[2]);
    if (runs > 3) run_product<1, kTiles>(scratch, tiles, column, first + 3, sums[3]);
  }

  static void finish(const Scratch& scratch, RowTile tile, int t, std::int64_t column, int count, int unit,
                     const Sums& sums) {
    const int first = unit * kUnitRuns, runs = count / kRunColumns - first;
    if (runs >= kUnitRuns) {
      finish_runs<kUnitRuns>(scratch, tile, t, column, first, sums);
    } else if (runs == 3) {
      finish_runs<3>(scratch, tile, t, column, first, sums);
    } else if (runs == 2) {
      finish_runs<2>(scratch, tile, t, column, first, sums);
    } else {
      finish_runs<1>(scratch, tile, t, column, first, sums);
    }
  }

 private:
  template <int kPlace, int kTiles>
  static void run_product(const Scratch& scratch, const RowTile (&tiles)[2], std::int64_t column, int run,
                          std::int32_t (&sums)[2][kTileRows][kPanelRows]) {
    constexpr int C = 2 * kPlace, B = 6 + kPlace;
    const auto q = [&](int t) {
      return tiles[t].template step<ActivationStep32>(0, column).q + run * kRunColumns;
    };
    tile_load<B>(scratch.quads[run * W::kQuads], kTileBytes);
    tile_zero<C>();
    tile_load<4>(q(0), tiles[0].stride);
    tile_dot_signed<C, 4, B>();
    if constexpr (kTiles == 2) {
      tile_zero<C + 1>();
      tile_load<5>(q(1), tiles[1].stride);
      tile_dot_signed<C + 1, 5, B>();
    }
    tile_store<C>(sums[0], kTileBytes);
    if constexpr (kTiles == 2) tile_store<C + 1>(sums[1], kTileBytes);
  }

  template <int kCount>
  static void finish_runs(const Scratch& scratch, RowTile tile, int t, std::int64_t column, int first,
                          const Sums& sums) {
    typename V::F32x16 d[kCount], m[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      d[i] = V::load(scratch.d[first + i]);
      if constexpr (W::kHasMinimum) m[i] = V::load(scratch.m[(first + i) / kRuns]);
    }
    for (int r = tile.done; r < tile.rows; ++r) {
      float* acc = tile.acc[r - tile.done];
      const auto& step = tile.step<ActivationStep32>(r, column);
      typename Few::Sums of_blocks;
      if constexpr (W::kHasMinimum) Few::add_up(step, of_blocks);
      auto sum = V::load(acc);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        const int block = (first + i) / kRuns;
        const auto scale = V::broadcast(step.scale[block]);
        sum = V::fma(V::to_float(V::load_vector(sums[i][t][r])), V::mul(d[i], scale), sum);
        if constexpr (W::kHasMinimum) sum = V::fma(m[i], V::broadcast(of_blocks.block[block]), sum);
      }
      V::store(acc, sum);
    }
  }
};

// A weight times the scale of its run has 16 bits, less its offset, too, and two tiles of bytes hold them:
// products need no scales then, and are summed over the whole block.
template <template <class> class Weights>
struct TileKernel256 {
  using V = Avx512;
  using Few = Block256Kernel<V, Weights>;
  using W = Weights<V>;
  static constexpr int kColumns = kStep, kDepth = kStep / kTileBytes;
  using Sums = std::int32_t[2][2][kTileRows][kPanelRows];

  struct Scratch : Few::Scratch {
    std::uint8_t digits[kDepth][2][kTileRows][kTileBytes];  // low, unsigned, and high
  };

  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 6; ++t) config.set(t, rows, kTileBytes);
    for (int t = 6; t < 8; ++t) config.set(t, kTileRows, kTileBytes);
    return config;
  }

  static void unpack(const Panels& w, const std::byte* panel, std::int64_t column, int count, Scratch& out) {
    Few::decode_scales(w, panel, column, count, out);
    Few::unpack(Few::weights(panel + column / kStep * Few::kStepBytes), count, out);
    for (unsigned run = 0; run < Few::kAllRuns; ++run) {
      const auto scale = V::load_pairs(out.scales[run]);
      auto& digits = out.digits[run * W::kQuads / kTileRows];
      const unsigned first = run * W::kQuads % kTileRows;
#pragma GCC unroll 8
      for (int v = 0; v < W::kQuads; ++v) {
        const auto weights =
            V::sub_bytes(V::load_bytes(out.quads[run * W::kQuads + v]), V::splat(W::kOffset));
        const auto even = _mm512_mullo_epi16(V::even_bytes<!W::kHasMinimum>(weights), scale),
                   odd = _mm512_mullo_epi16(V::odd_bytes<!W::kHasMinimum>(weights), scale);
        const auto low_byte = _mm512_set1_epi16(255);
        V::store_bytes(digits[0][first + v], V::either(V::both(even, low_byte), _mm512_slli_epi16(odd, 8)));
        V::store_bytes(digits[1][first + v],
                       V::either(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low_byte, odd)));
      }
    }
  }

  static int units(int) { return 1; }

  template <int kTiles>
  static void multiply(const Scratch& scratch, const RowTile (&tiles)[2], std::int64_t column, int, int,
                       Sums& sums) {
    const auto q = [&](int t) { return tiles[t].template step<ActivationStep256>(0, column).q; };
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (kTiles == 2) {
      tile_zero<2>();
      tile_zero<3>();
    }
#pragma GCC unroll 4
    for (int k = 0; k < kDepth; ++k) {
      tile_load<6>(scratch.digits[k][0], kTileBytes);
      tile_load<4>(q(0) + k * kTileBytes, tiles[0].stride);
      tile_dot_unsigned<0, 4, 6>();
      tile_load<7>(scratch.digits[k][1], kTileBytes);
      tile_dot_signed<1, 4, 7>();
      if constexpr (kTiles == 2) {
        tile_load<5>(q(1) + k * kTileBytes, tiles[1].stride);
        tile_dot_unsigned<2, 5, 6>();
        tile_dot_signed<3, 5, 7>();
      }
    }
    tile_store<0>(sums[0][0], kTileBytes);
    tile_store<1>(sums[0][1], kTileBytes);
    if constexpr (kTiles == 2) {
      tile_store<2>(sums[1][0], kTileBytes);
      tile_store<3>(sums[1][1], kTileBytes);
    }
  }

  static void finish(const Scratch& scratch, RowTile tile, int t, std::int64_t column, int, int,
                     const Sums& sums) {
    constexpr int kPairs = W::kHasMinimum ? Few::kAllRuns / 2 : 0;
    const auto d = V::load(scratch.d), dmin = Few::minimum_scale(scratch);
    V::I32x16 mins[kPairs + 1];
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) mins[p] = V::load_pairs(scratch.mins[p]);
    for (int r = tile.done; r < tile.rows; ++r) {
      const auto& step = tile.step<ActivationStep256>(r, column);
      const auto total =
          _mm512_add_epi32(V::load_vector(sums[t][0][r]), V::shift_left(V::load_vector(sums[t][1][r]), 8));
      V::I32x16 offset = V::izero();
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) {
        offset = _mm512_dpwssd_epi32(offset, mins[p], V::broadcast_dword(Few::run_sums(step) + 2 * p));
      }
      float* acc = tile.acc[r - tile.done];
      V::store(acc, Few::add_scaled(d, dmin, step.scale, total, offset, V::load(acc)));
    }
  }
};

// Of a step: all units of all rows.
template <class K>
void multiply_step(const typename K::Scratch& scratch, const std::byte* x, std::size_t stride, std::int64_t m,
                   int rows, std::int64_t first, int chunk, std::int64_t column, int count,
                   float (*acc)[kPanelRows]) {
  struct Unit {
    RowTile tiles[2];
    int of_step, count;  // count: tiles, 0 before the first unit
  };
  alignas(64) typename K::Sums sums[2];
  Unit unit[2] = {};
  int place = 0;
  const auto tile_at = [&](int i) {
    const std::int64_t begin = first + i + rows <= m ? first + i : m - rows;
    return RowTile{x + begin * stride, stride, rows, static_cast<int>(first + i - begin), acc + i};
  };
  const auto finish_last = [&] {
    const Unit& last = unit[1 - place];
    for (int t = 0; t < last.count; ++t) {
      K::finish(scratch, last.tiles[t], t, column, count, last.of_step, sums[1 - place]);
    }
  };
  const int units = K::units(count);
  for (int i = 0; i < chunk; i += 2 * kTileRows) {
    const bool pair = i + kTileRows < chunk;
    for (int of_step = 0; of_step < units; ++of_step) {
      unit[place] = {{tile_at(i), tile_at(pair ? i + kTileRows : i)}, of_step, 1 + pair};
      const auto product = pair ? K::template multiply<2> : K::template multiply<1>;
      product(scratch, unit[place].tiles, column, count, of_step, sums[place]);
      finish_last();
      place = 1 - place;
    }
  }
  finish_last();
}

template <class K>
void multiply_tiles(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                    std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  static_assert(kPanelGroup * kTileChunk * kPanelRows <= kProductSums);
  const int rows = m < kTileRows ? static_cast<int>(m) : kTileRows;
  const TileConfig config = K::config(rows);
  const Tiles configured(config);
  typename K::Scratch scratch;
  auto* sums = reinterpret_cast<float (*)[kPanelRows]>(product_sums());
  for (std::int64_t first = 0; first < m; first += kTileChunk) {
    const int chunk = m - first < kTileChunk ? static_cast<int>(m - first) : kTileChunk;
    for (std::int64_t begin = panel_begin; begin < panel_end; begin += kPanelGroup) {
      const int panels = panel_end - begin < kPanelGroup ? static_cast<int>(panel_end - begin) : kPanelGroup;
      for (int n = 0; n < panels; ++n) {
        const std::byte* panel = w.data + (begin + n) * w.layout.bytes;
        float (*acc)[kPanelRows] = sums + n * kTileChunk;
        clear(acc, chunk);
        for (std::int64_t c = 0; c < w.columns; c += K::kColumns) {
          const int count = w.columns - c < K::kColumns ? static_cast<int>(w.columns - c) : K::kColumns;
          K::unpack(w, panel, c, count, scratch);
          multiply_step<K>(scratch, x, stride, m, rows, first, chunk, c, count, acc);
        }
      }
      store_group(w, begin, panels, sums, kTileChunk, chunk, y + first * ldy, ldy);
    }
  }
}

}  // namespace
}  // namespace trivet

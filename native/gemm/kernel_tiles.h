// Products of many rows of int8 by the tiles of AMX. See kernel.h; V is Avx512.
//
// Integer sums are exact in any order, and what follows them is done by the same operations in the same order
// as in kernel_block32.h and kernel_block256.h. So a row has the bits that those give it, and few rows are
// left to them.
//
// A kernel of tiles has
//   config(rows)            shapes of the tiles 0 to 3 (sums), 4 and 5 (activations), 6 and 7 (weights)
//   unpack(w, panel, ..)    decodes a step of a panel to scratch
//   multiply(scratch, ..)   acc += the step's products of one or two tiles of rows
#pragma once

#include "amx.h"
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
  static constexpr int kColumns = kStep, kRuns = W::kRuns, kRunColumns = 4 * W::kQuads;

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

  template <int kTiles>
  static void multiply(const Scratch& scratch, const RowTile (&tiles)[2], std::int64_t column, int count) {
    // Of two runs at a time, the first of both tiles of rows, then the second.
    alignas(64) std::int32_t sums[2][2][kTileRows][kPanelRows];
    const int runs = count / kRunColumns;
    for (int run = 0; run < runs; run += 2) {
      const bool pair = run + 1 < runs;
      run_product<0, kTiles>(scratch, tiles, column, run, sums[0]);
      if (pair) run_product<1, kTiles>(scratch, tiles, column, run + 1, sums[1]);
      for (int t = 0; t < kTiles; ++t) {
        const RowTile& tile = tiles[t];
        for (int r = tile.done; r < tile.rows; ++r) {
          float* acc = tile.acc[r - tile.done];
          const auto& step = tile.step<ActivationStep32>(r, column);
          auto sum = V::load(acc);
          sum = scaled(scratch, step, run, sums[0][t][r], sum);
          if (pair) sum = scaled(scratch, step, run + 1, sums[1][t][r], sum);
          V::store(acc, sum);
        }
      }
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

  static V::F32x16 scaled(const Scratch& scratch, const ActivationStep32& step, int run,
                          const std::int32_t* exact, V::F32x16 sum) {
    const int block = run / kRuns;
    const auto scale = V::broadcast(step.scale[block]);
    sum = V::fma(V::to_float(V::load_vector(exact)), V::mul(V::load(scratch.d[run]), scale), sum);
    if constexpr (W::kHasMinimum) {
      const auto total = V::broadcast(std::int32_t{step.sum16[2 * block]} + step.sum16[2 * block + 1]);
      sum = V::fma(V::to_float(total), V::mul(V::load(scratch.m[block]), scale), sum);
    }
    return sum;
  }
};

// A weight times the scale of its run has 16 bits, which two tiles of bytes hold: products need no scales
// then, and are summed over the whole block.
template <template <class> class Weights>
struct TileKernel256 {
  using V = Avx512;
  using Few = Block256Kernel<V, Weights>;
  using W = Weights<V>;
  static constexpr int kColumns = kStep, kDepth = kStep / kTileBytes;

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
    for (int run = 0; run < Few::kAllRuns; ++run) {
      const auto scale = V::load_pairs(out.scales[run]);
      for (int v = 0; v < W::kQuads; ++v) {
        const int quad = run * W::kQuads + v;
        const auto weights = V::load_bytes(out.quads[quad]);
        const auto even = _mm512_mullo_epi16(V::even_bytes<false>(weights), scale),
                   odd = _mm512_mullo_epi16(V::odd_bytes<false>(weights), scale);
        const auto low_byte = _mm512_set1_epi16(255);
        auto& digits = out.digits[quad / kTileRows];
        V::store_bytes(digits[0][quad % kTileRows],
                       V::either(V::both(even, low_byte), _mm512_slli_epi16(odd, 8)));
        V::store_bytes(digits[1][quad % kTileRows],
                       V::either(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(low_byte, odd)));
      }
    }
  }

  template <int kTiles>
  static void multiply(const Scratch& scratch, const RowTile (&tiles)[2], std::int64_t column, int) {
    alignas(64) std::int32_t sums[2][2][kTileRows][kPanelRows];
    const auto q = [&](int t) { return tiles[t].template step<ActivationStep256>(0, column).q; };
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int k = 0; k < kDepth; ++k) {
      tile_load<6>(scratch.digits[k][0], kTileBytes);
      tile_load<7>(scratch.digits[k][1], kTileBytes);
      tile_load<4>(q(0) + k * kTileBytes, tiles[0].stride);
      tile_dot_unsigned<0, 4, 6>();
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
    for (int t = 0; t < kTiles; ++t) {
      const RowTile& tile = tiles[t];
      for (int r = tile.done; r < tile.rows; ++r) {
        const auto total =
            _mm512_add_epi32(V::load_vector(sums[t][0][r]), V::shift_left(V::load_vector(sums[t][1][r]), 8));
        const auto& step = tile.step<ActivationStep256>(r, column);
        V::I32x16 offset[1] = {V::izero()};
        V::dot_words<1, Few::kAllRuns / 2>(scratch.mins, Few::run_sums(step), 0, offset);
        Few::add_scaled(scratch, step.scale, total, offset[0], tile.acc[r - tile.done]);
      }
    }
  }
};

template <class K>
void multiply_tiles(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                    std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  const int rows = m < kTileRows ? static_cast<int>(m) : kTileRows;
  const TileConfig config = K::config(rows);
  const Tiles configured(config);
  typename K::Scratch scratch;
  alignas(64) float acc[kTileChunk][kPanelRows];
  for (std::int64_t first = 0; first < m; first += kTileChunk) {
    const int chunk = m - first < kTileChunk ? static_cast<int>(m - first) : kTileChunk;
    const auto tile_at = [&](int i) {
      const std::int64_t begin = first + i + rows <= m ? first + i : m - rows;
      return RowTile{x + begin * stride, stride, rows, static_cast<int>(first + i - begin), acc + i};
    };
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
      clear(acc, chunk);
      for (std::int64_t c = 0; c < w.columns; c += K::kColumns) {
        const int count = w.columns - c < K::kColumns ? static_cast<int>(w.columns - c) : K::kColumns;
        K::unpack(w, w.data + p * w.layout.bytes, c, count, scratch);
        for (int i = 0; i < chunk; i += 2 * kTileRows) {
          const bool pair = i + kTileRows < chunk;
          const RowTile tiles[2] = {tile_at(i), tile_at(pair ? i + kTileRows : i)};
          if (pair) {
            K::template multiply<2>(scratch, tiles, c, count);
          } else {
            K::template multiply<1>(scratch, tiles, c, count);
          }
        }
      }
      store_rows(w, p, acc, chunk, y + first * ldy, ldy);
    }
  }
}

}  // namespace
}  // namespace trivet

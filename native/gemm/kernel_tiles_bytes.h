// Products of rows of int8, with a scale for 256 columns, by the tiles of AMX with weights in blocks that are
// rounded to int8, too, where the numerics are fast: one scale for a row of weights and such a step lets a
// tile sum over all of its depth, and a step's products are scaled but once. See kernel.h and
// kernel_tiles_bf16.h, whose loops these are; V is Avx512Bf16.
//
// The products of a step are exact, and steps are added in ascending order. So a row of a product of tiles
// depends on no other, nor on where columns are cut.
#pragma once

#include "gemm/kernel_tiles_bf16.h"
#include "gemm/rounded_bytes.h"

namespace trivet {
namespace {

constexpr int kStepTiles = kStep / kTileBytes;
constexpr int kChunkSteps = kChunkColumns / kStep;
// Activations of a slab, and the scales of its rows and steps.
constexpr std::int64_t kByteSlab = 1 << 20, kSlabScales = kByteSlab / kStep;

// Weights of a chunk of a panel: right-hand tiles, and what they are multiples of.
struct alignas(64) ByteTiles {
  std::uint8_t tile[kChunkSteps * kStepTiles][kTileRows][kTileBytes];
  float scale[kChunkSteps][kPanelRows];
};

// Rounds a chunk, and fetches ahead after each run.
using RoundChunk = void (*)(const Panels& w, std::int64_t panel, std::int64_t column, int count,
                            ByteTiles& out, FetchAhead& ahead);

// That of the weights of a Block32Kernel or a Block256Kernel.
template <class Few>
struct RoundedChunks {
  using Rounded = RoundedBytes<Avx512Bf16, Few, 0>;

  [[gnu::noinline]] static void round(const Panels& w, std::int64_t panel, std::int64_t column, int count,
                                      ByteTiles& out, FetchAhead& ahead) {
    typename Few::Scratch scratch;
    const std::byte* packed = w.data + panel * w.layout.bytes;
    for (int c = 0; c < count; c += kStep) {
      const int columns = count - c < kStep ? count - c : kStep;
      Few::decode_scales(w, packed, column + c, columns, scratch);
      const std::byte* step = packed + w.layout.steps + (column + c) / kStep * Few::kStepBytes;
      Rounded::round_step(Few::template weights<false>(step), columns, scratch, out.scale[c / kStep],
                          out.tile[c / kTileBytes], [&] { ahead.step(); });
    }
  }

  static constexpr int kStepRuns = kStep / Rounded::kRunColumns;
};

using TileProducts = std::int32_t[2][2][kTileRows][kPanelRows];  // as TileSums

// A step of one or two tiles of rows with one or two panels: products that tiles have put down, and what they
// are to be added to. That is done while tiles multiply the next unit.
struct ByteUnit {
  const TileProducts* products;
  TileSums* sums;
  const float* rows_scales;
  const float* scales[2];  // of the panels
  float* y[2];             // where the sums of each tile go, if they are whole with this step
  std::int64_t ldy;
  int rows;
  bool first;
};

// The sums of a unit begin with 0 or with what was put down; they are put down, or whole.
enum class Sums { first, more, last, only };

// Of kRows rows of one tile, from `begin` on.
template <int kPanels, Sums use, int kRows>
[[gnu::always_inline]] inline void add_unit_rows(const ByteUnit& unit, unsigned begin) {
  using V = Avx512Bf16;
  constexpr unsigned kPanel = kTileRows * kPanelRows;  // from one panel to the next
  constexpr bool kFirst = use == Sums::first || use == Sums::only;
  constexpr bool kWhole = use == Sums::last || use == Sums::only;
  const unsigned tile = begin / kTileRows, row = begin % kTileRows;
  const std::int32_t* products = (*unit.products)[tile][0][row];
  float* sums = (*unit.sums)[tile][0][row];
  const float* of_row = unit.rows_scales + begin;
  float* y = kWhole ? unit.y[tile] + row * unit.ldy : nullptr;
  const std::int64_t ldy = unit.ldy;
  V::F32x16 of_panel[kPanels];
  for (int n = 0; n < kPanels; ++n) of_panel[n] = V::load(unit.scales[n]);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int n = 0; n < kPanels; ++n) {
      float* sum = sums + n * kPanel + i * kPanelRows;
      const auto scale = V::mul(of_panel[n], V::broadcast(of_row[i]));
      const auto product = V::to_float(V::load_vector(products + n * kPanel + i * kPanelRows));
      const auto total = kFirst ? V::mul(product, scale) : V::fma(product, scale, V::load(sum));
      if constexpr (kWhole) {
        V::store_anywhere(y + n * kPanelRows, total);
      } else {
        V::store(sum, total);
      }
    }
    if constexpr (kWhole) y += ldy;
  }
}

// One of the kStepTiles parts of a unit, beside what is fetched ahead.
template <int kPanels>
[[gnu::noinline]] void add_unit_part(const ByteUnit& unit, int part, FetchAhead& ahead) {
  ahead.step();
  constexpr int kRows = 2 * kTileRows / kStepTiles;
  const int begin = part * kRows;
  if (begin >= unit.rows) return;
  const auto add = [&]<Sums use> {
    if (begin + kRows <= unit.rows) return add_unit_rows<kPanels, use, kRows>(unit, begin);
    for (int i = begin; i < unit.rows; ++i) add_unit_rows<kPanels, use, 1>(unit, i);
  };
  if (unit.y[0] != nullptr) {
    unit.first ? add.template operator()<Sums::only>() : add.template operator()<Sums::last>();
  } else {
    unit.first ? add.template operator()<Sums::first>() : add.template operator()<Sums::more>();
  }
}

// A chunk of the rows of a pass and one or two panels.
struct ByteChunk {
  const std::byte* x;  // the columns of row 0
  std::size_t stride;
  const ByteTiles (&weights)[2];
  int steps;
  bool first, last;
  std::int64_t panel;
  TileSums* sums;            // of each pair of tiles
  const float* rows_scales;  // of each step, for all rows of all pairs
  std::int64_t scales_stride;
};

// The products of pairs [begin, end) of tiles. See multiply_chunk() about loads.
template <int kTiles, int kPanels>
void multiply_units(const PassRows& rows, const ByteChunk& chunk, std::int64_t begin, std::int64_t end,
                    TileProducts (&products)[2], ByteUnit& last, FetchAhead& ahead) {
  if (begin == end) return;
  const auto rows_at = [&](std::int64_t pair, int tile) {
    return chunk.x + rows.row(rows.first + (2 * pair + tile) * kTileRows) * chunk.stride;
  };
  const std::byte *x0 = rows_at(begin, 0), *x1 = rows_at(begin, kTiles - 1);
  const std::uint8_t *weights0 = chunk.weights[0].tile[0][0], *weights1 = chunk.weights[1].tile[0][0];
  tile_stream<4>(x0, chunk.stride);
  tile_load<6>(weights0, kTileBytes);
  if constexpr (kPanels == 2) tile_load<7>(weights1, kTileBytes);
  if constexpr (kTiles == 2) tile_stream<5>(x1, chunk.stride);
  for (std::int64_t pair = begin; pair < end; ++pair) {
    for (int step = 0; step < chunk.steps; ++step) {
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
#pragma GCC unroll 4
      for (int k = 0; k < kStepTiles; ++k) {
        weights0 += kTileSize;
        weights1 += kTileSize;
        if (k + 1 < kStepTiles || step + 1 < chunk.steps) {
          x0 += kTileBytes;
          x1 += kTileBytes;
        } else {
          const std::int64_t following = pair + 1 < end ? pair + 1 : pair;
          x0 = rows_at(following, 0);
          x1 = rows_at(following, kTiles - 1);
          weights0 = chunk.weights[0].tile[0][0];
          weights1 = chunk.weights[1].tile[0][0];
        }
        tile_dot_signed<0, 4, 6>();
        if constexpr (kPanels == 2) tile_dot_signed<1, 4, 7>();
        tile_stream<4>(x0, chunk.stride);
        if constexpr (kTiles == 2) tile_dot_signed<2, 5, 6>();
        tile_load<6>(weights0, kTileBytes);
        if constexpr (kTiles == 2 && kPanels == 2) tile_dot_signed<3, 5, 7>();
        if constexpr (kPanels == 2) tile_load<7>(weights1, kTileBytes);
        if constexpr (kTiles == 2) tile_stream<5>(x1, chunk.stride);
        add_unit_part<kPanels>(last, k, ahead);
      }
      TileProducts& out = products[last.products == &products[0]];
      tile_store<0>(out[0][0], kTileBytes);
      if constexpr (kPanels == 2) tile_store<1>(out[0][1], kTileBytes);
      if constexpr (kTiles == 2) tile_store<2>(out[1][0], kTileBytes);
      if constexpr (kTiles == 2 && kPanels == 2) tile_store<3>(out[1][1], kTileBytes);
      last = {&out,
              chunk.sums + pair,
              chunk.rows_scales + step * chunk.scales_stride + pair * 2 * kTileRows,
              {chunk.weights[0].scale[step], chunk.weights[1].scale[step]},
              {},
              rows.ldy,
              kTiles == 2 ? 2 * kTileRows : rows.rows,
              chunk.first && step == 0};
      if (chunk.last && step + 1 == chunk.steps) {
        for (int t = 0; t < kTiles; ++t) last.y[t] = rows.sums_of(2 * pair + t, chunk.panel);
      }
    }
  }
}

struct BytePass : PassRows {
  RoundChunk round;
  int step_bytes, step_runs;

  void multiply(std::int64_t panel_begin, std::int64_t panel_end) const {
    float scales[kSlabScales];
    for_each_slab(
        panel_begin, panel_end, kByteSlab,
        [&](std::int64_t panel, std::int64_t begin, std::int64_t slab_end) {
          if (panel > panel_begin && begin == 0 && slab_end == w.columns) return;
          fetch(panel, panel_end, begin, chunk_columns() / kStep, step_bytes, 1).step();
          gather_scales(begin, slab_end, scales);
        },
        [&](auto... of_panels) { multiply_slab(of_panels..., scales); });
  }

 private:
  // Those of a step one after another: there they lie far apart.
  void gather_scales(std::int64_t begin, std::int64_t slab_end, float* out) const {
    const std::int64_t stride = pairs() * 2 * kTileRows;
    for (std::int64_t i = first; i < end; i += kTileRows) {
      for (int r = 0; r < rows; ++r) {
        const std::byte* row_end = x + (row(i) + r + 1) * this->stride;
        for (std::int64_t c = begin; c < slab_end; c += kStep) {
          out[(c - begin) / kStep * stride + i - first + r] = byte_step(row_end, c / kStep).scale;
        }
      }
    }
  }

  // As TilePass::multiply_slab().
  void multiply_slab(std::int64_t panel, std::int64_t last_panel, std::int64_t begin, std::int64_t slab_end,
                     TileSums* sums, const float* scales) const {
    const bool two_panels = panel + 1 < last_panel;
    const std::int64_t scales_stride = pairs() * 2 * kTileRows;
    ByteTiles weights[2];
    alignas(64) TileProducts products[2];
    const int chunk_columns = this->chunk_columns();
    for (std::int64_t c = begin; c < slab_end; c += chunk_columns) {
      const int count = slab_end - c < chunk_columns ? static_cast<int>(slab_end - c) : chunk_columns;
      const int panels = two_panels ? 2 : 1, steps = chunk_columns / kStep;
      FetchAhead ahead = fetch_after(panel, last_panel, begin, slab_end, c, steps, step_bytes,
                                     steps * (panels * step_runs + static_cast<int>(pairs()) * kStepTiles));
      for (int n = 0; n < panels; ++n) round(w, panel + n, c, count, weights[n], ahead);
      const ByteChunk chunk = {x + c,
                               stride,
                               weights,
                               (count + kStep - 1) / kStep,
                               c == 0,
                               c + count == w.columns && direct(panel, two_panels ? 2 : 1),
                               panel,
                               sums,
                               scales + (c - begin) / kStep * scales_stride,
                               scales_stride};
      ByteUnit last = {};
      for_each_pair(two_panels, [&]<int kTiles, int kPanels>(std::int64_t first_pair, std::int64_t end_pair) {
        multiply_units<kTiles, kPanels>(*this, chunk, first_pair, end_pair, products, last, ahead);
      });
      const auto add_part = two_panels ? add_unit_part<2> : add_unit_part<1>;
      for (int part = 0; part < kStepTiles; ++part) add_part(last, part, ahead);
    }
  }
};

template <class Few>
void multiply_tiles_bytes(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                          std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  for_each_pass(w, x, stride, m, y, ldy, full_depth_config, kTileChunk, [&](const PassRows& rows) {
    using Chunks = RoundedChunks<Few>;
    BytePass{rows, Chunks::round, Few::kStepBytes, Chunks::kStepRuns}.multiply(panel_begin, panel_end);
  });
}

}  // namespace
}  // namespace trivet

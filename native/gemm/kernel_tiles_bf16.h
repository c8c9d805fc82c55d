// Products of rows of bfloat16 by the tiles of AMX: with weights that are stored so, and, where the numerics
// are fast, with those of any blocks, cut off to bfloat16 on the way. See kernel.h; V is Avx512Bf16.
//
// An element is one chain of sums over the columns, ascending: sums that are put down where columns are cut
// are taken up again with all their bits. So a row of a product of tiles depends on no other, nor on the
// cuts.
//
// Two panels are multiplied with two tiles of rows at a time, four products for four loads. Around that lie,
// from within, the columns of a chunk, whose weights (32 KiB) stay in the L1 cache; all rows of a pass; the
// chunks of a slab, whose activations stay in the L2 cache; and pairs of panels. Where the columns are more
// than a slab, sums of as many panels as product_sums() holds wait for the next one.
//
// A source of weights has
//   Scratch                 memory for a chunk of a panel, in the L1 cache
//   tiles(w, ..)            the right-hand tiles of a chunk, one after another
//   kStepBytes, kStepRuns   of a panel; how often tiles() fetches ahead: 0 if weights are such tiles
#pragma once

#include "gemm/kernel.h"
#include "gemm/tile_pass.h"
#include "unrolled.h"

namespace trivet {
namespace {

constexpr int kTileColumns = kTileBytes / 2;

struct alignas(64) ChunkTiles {
  std::byte tile[kChunkColumns / kTileColumns][kTileRows][kTileBytes];
};

// bfloat16 weights: tiles as they lie, but for the last one.
struct StoredTiles {
  using Scratch = ChunkTiles;
  static constexpr int kStepBytes = kStep / 2 * kTileBytes;
  static constexpr int kStepRuns = 0;

  static const std::byte* at(const Panels& w, std::int64_t panel, std::int64_t column) {
    return w.data + panel * w.layout.bytes + column / 2 * kTileBytes;
  }

  [[gnu::noinline]] static const std::byte* tiles(const Panels& w, std::int64_t panel, std::int64_t column,
                                                  int count, Scratch& out, FetchAhead&) {
    const std::byte* pairs = at(w, panel, column);
    if (count % kTileColumns == 0) return pairs;
    __builtin_memset(out.tile[count / kTileColumns], 0, kTileSize);
    __builtin_memcpy(out.tile, pairs, (count + 1) / 2 * kTileBytes);
    return out.tile[0][0];
  }
};

// The weights of a Block32Kernel or a Block256Kernel.
template <class Few>
struct RoundedTiles {
  using V = Avx512Bf16;
  using F = V::F32x16;
  using W = typename Few::W;
  static constexpr int kRunColumns = 4 * W::kQuads, kStepBytes = Few::kStepBytes;
  static constexpr int kStepRuns = kStep / kRunColumns;
  // A weight is put into the mantissa of a float, as the byte whose place it has, if that can be: kBias more
  // than the weight.
  static constexpr int byte_of(int place) { return W::kBits == 8 || place % 4 == 1 ? 1 : 2; }
  template <int kByte>
  static constexpr float kBias = kByte == 1 ? 0x1p15f : 0x1p7f;
  // Then what bfloat16 has no place for is cut off. On average that makes weights smaller by this factor;
  // those of eight bits are what they were.
  static constexpr float kCut = 1 + 0x1p-8f * 2 / 3;

  static constexpr std::array<std::uint8_t, kRunColumns> kPlaces = [] {
    std::array<std::uint8_t, kRunColumns> places = {};
    for (int column = 0; column < kRunColumns; ++column) {
      places[column] = static_cast<std::uint8_t>(place_of(kOrder<W>, column));
    }
    return places;
  }();

  struct Scratch : Few::Scratch, ChunkTiles {};

  static const std::byte* at(const Panels& w, std::int64_t panel, std::int64_t column) {
    return w.data + panel * w.layout.bytes + w.layout.steps + column / kStep * Few::kStepBytes;
  }

  [[gnu::noinline]] static const std::byte* tiles(const Panels& w, std::int64_t panel, std::int64_t column,
                                                  int count, Scratch& out, FetchAhead& ahead) {
    const std::byte* packed = w.data + panel * w.layout.bytes;
    for (int c = 0; c < count; c += kStep) {
      const int columns = count - c < kStep ? count - c : kStep;
      Few::decode_scales(w, packed, column + c, columns, out);
      Few::multiply_scales(out, kCut);
      round_step(Few::template weights<false>(at(w, panel, column + c)), columns, out,
                 out.tile[c / kTileColumns], ahead);
    }
    return out.tile[0][0];
  }

 private:
  static void round_step(const PackedQuads<V, W, false>& weights, int columns, Scratch& scratch,
                         std::byte (*rows)[kTileBytes], FetchAhead& ahead) {
    if constexpr (requires { W::unpack(*weights.panel, scratch.quads); }) {
      Few::unpack(weights, columns, scratch);
      for (int run = 0; run < columns / kRunColumns; ++run, rows += 2 * W::kQuads) {
        round_run([&](int v) { return V::load_bytes(scratch.quads[run * W::kQuads + v]); }, scratch, run,
                  rows);
        ahead.step();
      }
    } else {
      for (int group = 0; group < columns / (kRunColumns * W::kRuns); ++group) {
#pragma GCC unroll 8
        for (int run = 0; run < W::kRuns; ++run, rows += 2 * W::kQuads) {
          round_run([&](int v) { return weights(group, run, 0, v); }, scratch, group * W::kRuns + run, rows);
          ahead.step();
        }
      }
    }
  }

  // A quad gives two rows of a tile, each a pair of columns of every row of the panel.
  template <class Quad>
  [[gnu::always_inline]] static void round_run(const Quad& quad, const Scratch& scratch, int run,
                                               std::byte (*rows)[kTileBytes]) {
    const F scale = Few::scale(scratch, run);
    const F least[] = {Few::minimum(scratch, run, scale, kBias<1>),
                       Few::minimum(scratch, run, scale, kBias<2>)};
    V::Bytes quads[W::kQuads];
    unrolled<W::kQuads>([&](auto v) { quads[v] = quad(v); });
    const auto weight = [&](auto column) {
      constexpr int kPlace = kPlaces[column], kByte = byte_of(kPlace);
      return V::fma(V::template in_mantissa<kByte>(quads[kPlace / 4], kPlace % 4), scale, least[kByte - 1]);
    };
    unrolled<2 * W::kQuads>([&](auto pair) {
      V::store_upper_pairs(rows[pair], weight(std::integral_constant<int, 2 * pair>()),
                           weight(std::integral_constant<int, 2 * pair + 1>()));
    });
  }
};

// Whether the sums of a chunk begin with 0 or with what was put down, else with what the tiles hold; and
// whether they are put down after it, or are whole.
struct SumsUse {
  bool zero, load, store, whole;
};

// The sums of pairs [begin, end) of tiles, one after another, += their products with a chunk; rows_of(pair,
// tile) is the first row of a tile, sums_of(pair, tile) where its whole sums go. The next sums are fetched
// ahead.
//
// An operand is loaded as soon as its last product has begun, so that the first one with the next does not
// wait for it.
template <int kTiles, int kPanels, class RowsOf, class SumsOf>
void multiply_chunk(const RowsOf& rows_of, const SumsOf& sums_of, std::int64_t begin, std::int64_t end,
                    std::size_t stride, const std::byte* const (&weights)[2], int steps, SumsUse use,
                    TileSums* sums, std::int64_t ldy, FetchAhead& ahead) {
  if (begin == end) return;
  const std::byte *x0 = rows_of(begin, 0), *x1 = rows_of(begin, kTiles - 1);
  const std::byte *weights0 = weights[0], *weights1 = weights[1];
  tile_stream<4>(x0, stride);
  tile_load<6>(weights0, kTileBytes);
  if constexpr (kPanels == 2) tile_load<7>(weights1, kTileBytes);
  if constexpr (kTiles == 2) tile_stream<5>(x1, stride);
  for (std::int64_t pair = begin; pair < end; ++pair) {
    TileSums& of_pair = sums[pair];
    if (use.zero) {
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
    } else if (use.load) {
      tile_load<0>(of_pair[0][0], kTileBytes);
      if constexpr (kPanels == 2) tile_load<1>(of_pair[0][1], kTileBytes);
      if constexpr (kTiles == 2) tile_load<2>(of_pair[1][0], kTileBytes);
      if constexpr (kTiles == 2 && kPanels == 2) tile_load<3>(of_pair[1][1], kTileBytes);
    }
    const auto* next = reinterpret_cast<const std::byte*>(&of_pair + 1);
    for (int k = 0; k < steps; ++k) {
      if (pair + 1 < end) {
        constexpr int kLines = sizeof(TileSums) / 64 / (kChunkColumns / kTileColumns);
#pragma GCC unroll 4
        for (int i = 0; i < kLines; ++i, next += 64) __builtin_prefetch(next);
      }
      if (k + 1 < steps) {
        x0 += kTileBytes;
        x1 += kTileBytes;
        weights0 += kTileSize;
        weights1 += kTileSize;
      } else {
        const std::int64_t following = pair + 1 < end ? pair + 1 : pair;
        x0 = rows_of(following, 0);
        x1 = rows_of(following, kTiles - 1);
        weights0 = weights[0];
        weights1 = weights[1];
      }
      tile_dot_bf16<0, 4, 6>();
      if constexpr (kPanels == 2) tile_dot_bf16<1, 4, 7>();
      tile_stream<4>(x0, stride);
      if constexpr (kTiles == 2) tile_dot_bf16<2, 5, 6>();
      tile_load<6>(weights0, kTileBytes);
      if constexpr (kTiles == 2 && kPanels == 2) tile_dot_bf16<3, 5, 7>();
      if constexpr (kPanels == 2) tile_load<7>(weights1, kTileBytes);
      if constexpr (kTiles == 2) tile_stream<5>(x1, stride);
      ahead.step();
    }
    if (use.whole) {
      const std::size_t row = ldy * sizeof(float);
      float *y0 = sums_of(pair, 0), *y1 = sums_of(pair, kTiles - 1);
      tile_store<0>(y0, row);
      if constexpr (kPanels == 2) tile_store<1>(y0 + kPanelRows, row);
      if constexpr (kTiles == 2) tile_store<2>(y1, row);
      if constexpr (kTiles == 2 && kPanels == 2) tile_store<3>(y1 + kPanelRows, row);
    } else if (use.store) {
      tile_store<0>(of_pair[0][0], kTileBytes);
      if constexpr (kPanels == 2) tile_store<1>(of_pair[0][1], kTileBytes);
      if constexpr (kTiles == 2) tile_store<2>(of_pair[1][0], kTileBytes);
      if constexpr (kTiles == 2 && kPanels == 2) tile_store<3>(of_pair[1][1], kTileBytes);
    }
  }
}

template <class Source>
struct TilePass : PassRows {
  typename Source::Scratch (&scratch)[2];

  void multiply(std::int64_t panel_begin, std::int64_t panel_end) const {
    for_each_slab(
        panel_begin, panel_end, kSlabBytes / 2, [](auto...) {},
        [this](auto... of_panels) { multiply_slab(of_panels...); });
  }

 private:
  // Of two panels, if there are as many before `last`; those after them are next.
  void multiply_slab(std::int64_t panel, std::int64_t last, std::int64_t begin, std::int64_t slab_end,
                     TileSums* sums) const {
    const bool two_panels = panel + 1 < last;
    const int chunk_columns = Source::kStepRuns > 0 ? this->chunk_columns() : kChunkColumns;
    for (std::int64_t c = begin; c < slab_end; c += chunk_columns) {
      const int count = slab_end - c < chunk_columns ? static_cast<int>(slab_end - c) : chunk_columns;
      const int steps = (count + kTileColumns - 1) / kTileColumns;
      const int panels = two_panels ? 2 : 1, fetched = chunk_columns / kStep;
      FetchAhead ahead =
          fetch_after(panel, last, begin, slab_end, c, fetched, Source::kStepBytes,
                      fetched * panels * Source::kStepRuns + static_cast<int>(pairs()) * steps);
      const std::byte* weights[2] = {};
      for (int n = 0; n < panels; ++n) {
        weights[n] = Source::tiles(w, panel + n, c, count, scratch[n], ahead);
      }
      const auto rows_of = [this, column = x + c * 2](std::int64_t pair, int tile) {
        return column + row(first + (2 * pair + tile) * kTileRows) * stride;
      };
      const bool more = c + chunk_columns < slab_end;
      const auto sums_of = [this, panel](std::int64_t pair, int tile) {
        return PassRows::sums_of(2 * pair + tile, panel);
      };
      // The sums of one pair stay in the tiles.
      const SumsUse use = {c == 0, !few() || c == begin, !few() || !more,
                           c + count == w.columns && direct(panel, two_panels ? 2 : 1)};
      for_each_pair(two_panels, [&]<int kTiles, int kPanels>(std::int64_t first_pair, std::int64_t end_pair) {
        multiply_chunk<kTiles, kPanels>(rows_of, sums_of, first_pair, end_pair, stride, weights, steps, use,
                                        sums, ldy, ahead);
      });
    }
  }
};

template <class Source>
void multiply_tiles_bf16(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                         std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  typename Source::Scratch scratch[2];
  for_each_pass(w, x, stride, m, y, ldy, full_depth_config, kTileChunk, [&](const PassRows& rows) {
    TilePass<Source>{rows, scratch}.multiply(panel_begin, panel_end);
  });
}

}  // namespace
}  // namespace trivet

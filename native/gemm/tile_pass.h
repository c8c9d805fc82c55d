// Passes of many rows over the weights by the tiles of AMX: what the kernels of kernel_tiles.h,
// kernel_tiles_bf16.h and kernel_tiles_bytes.h share.
#pragma once

#include "amx.h"
#include "gemm/kernel.h"
#include "gemm/memory.h"
#include "gemm/vectors_avx512_bf16.h"

namespace trivet {
namespace {

// Activation rows per pass over a panel: unpacking a step, or rounding it to bfloat16, costs as much as
// multiplying some 64 rows by it.
constexpr int kTileChunk = 256;
constexpr int kTileSize = kTileRows * kTileBytes;
constexpr int kChunkColumns = 2 * kStep;
// With as many tiles of rows, or fewer, chunks of weights that are rounded are half as wide: they leave room
// in the L1 cache for what the next is made of. More rows gain by reading their sums half as often.
constexpr int kShortChunkTiles = 8;
constexpr std::int64_t kSlabBytes = 640 << 10;

// Few rows take weights as fast as memory gives them, which is asked for so much ahead.
constexpr int kFarBytes = 32 << 10;

inline void fetch_line(const std::byte* p) { asm volatile("prefetcht1 %0" : : "m"(*p)); }

// Fetches so many lines from each of two places on to the L2 cache, a few at each of so many times: a burst
// would wait for the places of outstanding loads.
struct FetchAhead {
  const std::byte* places[2];
  int lines, times, due = 0;

  // Of one panel, both halves.
  static FetchAhead halves(const std::byte* begin, int bytes, int times) {
    const int lines = (bytes / 64 + 1) / 2;
    return {{begin, begin + bytes - 64 * lines}, lines, times};
  }

  void step() {
    for (due += lines; due >= times; due -= times) {
      for (const std::byte*& place : places) {
        fetch_line(place);
        place += 64;
      }
    }
  }
};

// The sums of two tiles of rows with two panels: tile of rows, panel, row, row of the panel.
using TileSums = float[2][2][kTileRows][kPanelRows];

constexpr TileConfig full_depth_config(int rows) {
  TileConfig config;
  for (int t = 0; t < 6; ++t) config.set(t, rows, kTileBytes);
  for (int t = 6; t < 8; ++t) config.set(t, kTileRows, kTileBytes);
  return config;
}

// The rows of one pass, from `first` on.
struct PassRows {
  const Panels& w;
  const std::byte* x;
  std::size_t stride;
  std::int64_t m;
  int rows;  // of a tile
  std::int64_t first, end;
  float* y;
  std::int64_t ldy;

  // Row of a tile; the last one is full, so that some of its rows are those of an earlier tile too.
  std::int64_t row(std::int64_t i) const { return i + rows <= m ? i : m - rows; }

  std::int64_t tiles() const { return (end - first + kTileRows - 1) / kTileRows; }
  std::int64_t pairs() const { return (tiles() + 1) / 2; }
  // Of few rows, products take about as long as reading the weights.
  bool few() const { return tiles() <= 2; }
  int chunk_columns() const { return tiles() <= kShortChunkTiles ? kStep : kChunkColumns; }

  // Where a step of a panel lies, but for scales that lie apart.
  const std::byte* step_at(std::int64_t panel, std::int64_t column, int step_bytes) const {
    return w.data + panel * w.layout.bytes + w.layout.steps + column / kStep * step_bytes;
  }

  // Fetches so many steps of two panels from a column on, but nothing if the first is not before `last`.
  FetchAhead fetch(std::int64_t panel, std::int64_t last, std::int64_t column, int steps, int step_bytes,
                   int times) const {
    const std::int64_t second = panel + 1 < last ? panel + 1 : panel;
    return {{step_at(panel, column, step_bytes), step_at(second, column, step_bytes)},
            panel < last ? steps * step_bytes / 64 : 0,
            times};
  }

  struct Place {
    std::int64_t panel, column;
  };

  // What is `far` steps later, where `panels` at a time are multiplied with a slab of columns [begin, end).
  Place later(Place at, int panels, std::int64_t begin, std::int64_t end, std::int64_t far) const {
    const std::int64_t steps = (end - begin + kStep - 1) / kStep, step = (at.column - begin) / kStep + far;
    return {at.panel + step / steps * panels, begin + step % steps * kStep};
  }

  // Fetches the scales of so many steps of a panel, where they lie apart.
  void fetch_scales(Place at, int steps) const {
    const std::int64_t of_step = w.layout.steps * kStep / w.columns;
    const std::byte* scales = w.data + at.panel * w.layout.bytes + at.column / kStep * of_step;
    for (std::int64_t i = 0; i < steps * of_step; i += 64) fetch_line(scales + i);
  }

  // Fetches what is read after so many steps of two panels, of a slab of columns [begin, end).
  FetchAhead fetch_after(std::int64_t panel, std::int64_t last, std::int64_t begin, std::int64_t end,
                         std::int64_t column, int steps, int step_bytes, int times) const {
    // What comes next is likely to go on where this ends.
    if (few()) last = (w.rows + kPanelRows - 1) / kPanelRows;
    const int far = few() ? kFarBytes / 2 / step_bytes + 1 : steps;
    const Place next = later({panel, column}, 2, begin, end, far);
    if (few()) {
      for (int n = 0; n < 2; ++n) fetch_scales({next.panel + n, next.column}, steps);
    }
    return fetch(next.panel, last, next.column, steps, step_bytes, times);
  }

  // Whether sums with all rows of these panels are wanted, as they are: they go to y as soon as they are
  // whole.
  bool direct(std::int64_t panel, std::int64_t panels) const {
    return (panel + panels) * kPanelRows <= w.rows && w.scale == 1;
  }

  // Where the sums of a tile of rows with a panel go.
  float* sums_of(std::int64_t tile, std::int64_t panel) const {
    return y + row(first + tile * kTileRows) * ldy + panel * kPanelRows;
  }

  // For each group of panels and slab of columns [begin, end), which has so many elements of all rows: calls
  // start(group's first panel, begin, end), then multiply(panel, last, begin, end, sums) for every two
  // panels, of which the second may be at `last`, past the end. That writes sums which are whole and
  // direct(); others wait in `sums`, until they are written here.
  template <class Start, class Multiply>
  void for_each_slab(std::int64_t panel_begin, std::int64_t panel_end, std::int64_t slab_elements,
                     const Start& start, const Multiply& multiply) const {
    const std::int64_t pairs = this->pairs();
    const std::int64_t slab = slab_elements / (pairs * 2 * kTileRows) / kChunkColumns * kChunkColumns;
    const bool whole = slab >= w.columns;
    const std::int64_t group = whole ? 2 : 2 * (kProductSums / (pairs * (sizeof(TileSums) / sizeof(float))));
    TileSums* all = reinterpret_cast<TileSums*>(product_sums());
    for (std::int64_t begin = panel_begin; begin < panel_end; begin += group) {
      const std::int64_t stop = begin + group < panel_end ? begin + group : panel_end;
      for (std::int64_t c = 0; c < w.columns; c += slab) {
        const std::int64_t slab_end = c + slab < w.columns ? c + slab : w.columns;
        start(begin, c, slab_end);
        for (std::int64_t p = begin; p < stop; p += 2) {
          multiply(p, whole ? panel_end : stop, c, slab_end, all + (p - begin) / 2 * pairs);
        }
      }
      for (std::int64_t p = begin; p < stop; p += 2) {
        const std::int64_t panels = p + 1 < stop ? 2 : 1;
        if (!direct(p, panels)) store(p, panels, all + (p - begin) / 2 * pairs);
      }
    }
  }

  // Calls f<tiles, panels>(begin, end) for pairs [begin, end) of tiles of rows: of two, then of one.
  template <class F>
  void for_each_pair(bool two_panels, const F& f) const {
    const auto pairs_of = [&]<int kPanels> {
      f.template operator()<2, kPanels>(0, tiles() / 2);
      f.template operator()<1, kPanels>(tiles() / 2, pairs());
    };
    two_panels ? pairs_of.template operator()<2>() : pairs_of.template operator()<1>();
  }

  void store(std::int64_t panel, std::int64_t panels, const TileSums* sums) const {
    for (std::int64_t i = 0; i < tiles(); ++i) {
      for (std::int64_t n = 0; n < panels; ++n) {
        float* out = sums_of(i, panel) - panel * kPanelRows;
        store_rows(w, panel + n, sums[i / 2][i % 2][n], rows, out, ldy);
      }
    }
  }
};

// Calls f(rows) for passes of nearly equal size, of at most `most` rows, as a short last one would be all
// unpacking of weights; tiles have the shapes that config_of(rows of a tile) gives.
template <class F>
void for_each_pass(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m, float* y,
                   std::int64_t ldy, TileConfig (*config_of)(int), std::int64_t most, const F& f) {
  const int rows = m < kTileRows ? static_cast<int>(m) : kTileRows;
  const TileConfig config = config_of(rows);
  const Tiles configured(config);
  const std::int64_t passes = (m + most - 1) / most, each = (m + passes - 1) / passes;
  const std::int64_t pass = (each + 2 * kTileRows - 1) / (2 * kTileRows) * (2 * kTileRows);
  for (std::int64_t first = 0; first < m; first += pass) {
    f(PassRows{w, x, stride, m, rows, first, first + pass < m ? first + pass : m, y, ldy});
  }
}

}  // namespace
}  // namespace trivet

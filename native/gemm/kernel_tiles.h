// Products of many rows of int8 by the tiles of AMX. See kernel.h and tile_pass.h; V is Avx512Bf16.
//
// Integer sums are exact in any order, and what follows them is done by the same operations in the same order
// as in kernel_block32.h and kernel_block256.h. So a row has the bits that those give it, and few rows are
// left to them.
//
// What tiles put down is slow to load at first: it is added up while they multiply what comes next. Between
// two tiles' worth of stores lies that work: the processor remembers about a hundred stores, and issues
// nothing while it has no place for another. All that is put down and not added up yet has addresses that
// differ in the lowest 12 bits, or loads would wait for stores that are not theirs.
#pragma once

#include "gemm/tile_pass.h"
#include "gemm/vectors_avx512_bf16.h"

namespace trivet {
namespace {

// What a column of a row takes of a slab: more than its byte, as scales and sums of bytes lie beside it, and
// sums of products with all panels of a group stay in the L2 cache, too.
constexpr int kExactColumnBytes = 3;

// Two panels, if there are as many before `last`, and the columns of a slab: what a kernel multiplies.
struct SlabPanels {
  const PassRows& rows;
  std::int64_t panel, last, begin, end;  // columns
  TileSums* sums;

  int panels() const { return panel + 1 < last ? 2 : 1; }
  const std::byte* packed(int n) const { return rows.w.data + (panel + n) * rows.w.layout.bytes; }
  int columns(std::int64_t column) const {
    return end - column < kStep ? static_cast<int>(end - column) : kStep;
  }
  template <class Step>
  const std::byte* tile(std::int64_t i, std::int64_t column) const {
    return rows.x + rows.row(rows.first + i * kTileRows) * rows.stride + column / kStep * sizeof(Step);
  }

  // Fetches the steps that follow those at a column, `times` times a part of them.
  template <int kStepBytes>
  FetchPanels ahead(std::int64_t column, std::int64_t times) const {
    const bool more = column + kStep < end;
    return rows.fetch_ahead(more ? panel : panel + 2, last, more ? column + kStep : begin, kStepBytes, 1,
                            times);
  }
};

template <template <class> class Weights>
struct TileKernel32 : SlabPanels {
  using V = Avx512Bf16;
  using Few = Block32Kernel<V, Weights>;
  using W = Weights<V>;
  using Scratch = typename Few::Scratch;
  static constexpr int kRunColumns = 4 * W::kQuads, kRuns = W::kRuns;
  static_assert(!W::kHasMinimum || kRuns == 1);

  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 4; ++t) config.set(t, rows, kTileBytes);
    for (int t = 4; t < 6; ++t) config.set(t, rows, kRunColumns);
    for (int t = 6; t < 8; ++t) config.set(t, W::kQuads, kTileBytes);
    return config;
  }

  void multiply() const {
    Scratch scratch;
    const std::int64_t tiles = rows.tiles();
    for (std::int64_t c = begin; c < end; c += kStep) {
      const int count = columns(c);
      FetchPanels fetch = ahead<Few::kStepBytes>(c, panels() * tiles);
      for (int n = 0; n < panels(); ++n) {
        rows.few() ? unpack<true>(n, c, count, scratch) : unpack<false>(n, c, count, scratch);
        for (std::int64_t i = 0; i < tiles; ++i) {
          fetch.step();
          add_tile(scratch, tile<ActivationStep32>(i, c), count / kRunColumns, c == 0, sums[i / 2][i % 2][n]);
        }
      }
    }
  }

 private:
  // Tiles of products that are not added up yet, and how many runs later that is done.
  static constexpr int kPlaces = 4, kLag = 2;
  using Products = std::int32_t[kPlaces][kTileRows][kPanelRows];

  // Weights without their offset fit int8.
  template <bool kFetch>
  [[gnu::noinline]] void unpack(int n, std::int64_t column, int count, Scratch& out) const {
    Few::decode_scales(rows.w, packed(n), column, count, out);
    const std::byte* step = packed(n) + rows.w.layout.steps + column / kStep * Few::kStepBytes;
    const auto weights = Few::template weights<kFetch>(step);
    std::uint8_t (*next)[64] = out.quads;
    for (int block = 0; block < count / 32; ++block) {
#pragma GCC unroll 2
      for (int run = 0; run < kRuns; ++run) {
#pragma GCC unroll 8
        for (int v = 0; v < W::kQuads; ++v) {
          V::store_bytes(*next++, V::sub_bytes(weights(block, run, 0, v), V::splat(W::kOffset)));
        }
      }
    }
  }

  template <int kPlace>
  static void load_run(const Scratch& scratch, const std::int8_t* q, std::size_t stride, int run) {
    tile_load<6 + kPlace % 2>(scratch.quads[run * W::kQuads], kTileBytes);
    tile_load<4 + kPlace % 2>(q + run * kRunColumns, stride);
  }

  // The products of a run, whose operands are loaded; then loads those of the next one.
  template <int kPlace>
  static void multiply_run(const Scratch& scratch, const std::int8_t* q, std::size_t stride, int run,
                           int runs) {
    tile_zero<kPlace>();
    tile_dot_signed<kPlace, 4 + kPlace % 2, 6 + kPlace % 2>();
    if (run + 1 < runs) load_run<(kPlace + 1) % kPlaces>(scratch, q, stride, run + 1);
  }

  static void multiply_run(const Scratch& scratch, const std::int8_t* q, std::size_t stride, int run,
                           int runs) {
    switch (run % kPlaces) {
      case 0:
        return multiply_run<0>(scratch, q, stride, run, runs);
      case 1:
        return multiply_run<1>(scratch, q, stride, run, runs);
      case 2:
        return multiply_run<2>(scratch, q, stride, run, runs);
      case 3:
        return multiply_run<3>(scratch, q, stride, run, runs);
    }
  }

  static void store_run(Products& products, int run) {
    switch (run % kPlaces) {
      case 0:
        return tile_store<0>(products[0], kTileBytes);
      case 1:
        return tile_store<1>(products[1], kTileBytes);
      case 2:
        return tile_store<2>(products[2], kTileBytes);
      case 3:
        return tile_store<3>(products[3], kTileBytes);
    }
  }

  // acc += the products of a step and a tile of rows, or = them. Sums stay in registers.
  [[gnu::noinline]] void add_tile(const Scratch& scratch, const std::byte* x, int runs, bool first,
                                  float (*acc)[kPanelRows]) const {
    alignas(64) Products products;
    struct {
      float scale[Few::kBlocks];
      typename Few::Sums sums;
    } of_row[kTileRows];
    typename V::F32x16 sum[kTileRows];
    // Rows that a tile lacks have products of another run, and are of no use.
    for (int r = 0; r < kTileRows; ++r) {
      const auto& step =
          *reinterpret_cast<const ActivationStep32*>(x + (r < rows.rows ? r : rows.rows - 1) * rows.stride);
      __builtin_memcpy(of_row[r].scale, step.scale, sizeof of_row[r].scale);
      if constexpr (W::kHasMinimum) Few::add_up(step, of_row[r].sums);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) sum[r] = first ? V::zero() : V::load(acc[r]);
    const std::int8_t* q = reinterpret_cast<const ActivationStep32*>(x)->q;
    load_run<0>(scratch, q, rows.stride, 0);
    for (int run = 0; run < runs + kLag; ++run) {
      if (run < runs) multiply_run(scratch, q, rows.stride, run, runs);
      if (run >= kLag) {
        const int of_run = run - kLag, block = of_run / kRuns;
        const auto(&product)[kTileRows][kPanelRows] = products[of_run % kPlaces];
        const auto d = V::load(scratch.d[of_run]);
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) {
          const auto scale = V::mul(d, V::broadcast(of_row[r].scale[block]));
          sum[r] = V::fma(V::to_float(V::load_vector(product[r])), scale, sum[r]);
        }
        if constexpr (W::kHasMinimum) {
          const auto m = V::load(scratch.m[block]);
#pragma GCC unroll 16
          for (int r = 0; r < kTileRows; ++r) {
            sum[r] = V::fma(m, V::broadcast(of_row[r].sums.block[block]), sum[r]);
          }
        }
      }
      if (run < runs) store_run(products, run);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) V::store(acc[r], sum[r]);
  }
};

// A weight times the scale of its run has 16 bits, less its offset, too, and two tiles of bytes hold them:
// products need no scales then, and are summed over the whole block.
template <template <class> class Weights>
struct TileKernel256 : SlabPanels {
  using V = Avx512Bf16;
  using Few = Block256Kernel<V, Weights>;
  using W = Weights<V>;

  static constexpr TileConfig config(int rows) { return full_depth_config(rows); }

  void multiply() const {
    Scratch scratch[2];
    Ends ends[2];
    alignas(64) Products products;
    Unit last = {};
    int place = 0;
    unpack(0, begin, 0, kParts, scratch[place]);
    for (std::int64_t c = begin; c < end; c += kStep) {
      FetchPanels fetch = ahead<Few::kStepBytes>(c, panels() * rows.pairs() * kParts);
      for (int n = 0; n < panels(); ++n, place = 1 - place) {
        const bool same_step = n + 1 < panels();
        const std::int64_t next = same_step ? c : c + kStep;
        ends[place].copy(scratch[place]);
        for (std::int64_t i = 0; i < rows.tiles(); i += 2) {
          const int tiles = i + 1 < rows.tiles() ? 2 : 1;
          const Unit unit = {&ends[place],
                             {tile<ActivationStep256>(i, c), tile<ActivationStep256>(i + tiles - 1, c)},
                             {sums[i / 2][0][n], sums[i / 2][1][n]},
                             tiles,
                             c == 0};
          // Beside the step's last products the next one is unpacked.
          const bool unpacks = i + tiles == rows.tiles() && next < end;
          const auto between = [&](int part) {
            fetch.step();
            add_part(last, products, part);
            if (unpacks) unpack(same_step ? 1 : 0, next, part, part + 1, scratch[1 - place]);
          };
          const auto& digits = scratch[place].digits;
          tiles == 2 ? multiply_unit<2>(digits, unit.x, products, between)
                     : multiply_unit<1>(digits, unit.x, products, between);
          last = unit;
        }
      }
    }
    for (int part = 0; part < kParts; ++part) add_part(last, products, part);
  }

 private:
  static constexpr int kPairs = W::kHasMinimum ? Few::kAllRuns / 2 : 0;
  static constexpr int kDepth = kStep / kTileBytes,
                       kParts = kDepth;                        // of a unit: one for each pair of digits
  using Products = std::int32_t[2][2][kTileRows][kPanelRows];  // tile, digit

  using Digits = std::uint8_t[kDepth][2][kTileRows][kTileBytes];  // low, unsigned, and high

  struct Scratch : Few::Scratch {
    Digits digits;
  };

  // What a step's last products are scaled with while the next one is unpacked already.
  struct alignas(64) Ends {
    float d[kPanelRows], dmin[kPanelRows];
    RowPairs mins[kPairs + 1];

    void copy(const Scratch& scratch) {
      V::store(d, V::load(scratch.d));
      if constexpr (W::kHasMinimum) V::store(dmin, V::load(scratch.dmin));
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) V::store_pairs(mins[p], V::load_pairs(scratch.mins[p]));
    }
  };

  // One or two tiles of rows and a step of a panel.
  struct Unit {
    const Ends* ends;
    const std::byte* x[2];
    float (*acc[2])[kPanelRows];
    int tiles;  // 0: none
    bool first;
  };

  // Parts [from, to) of a step of panel n.
  void unpack(int n, std::int64_t column, int from, int to, Scratch& out) const {
    rows.few() ? unpack<true>(n, column, from, to, out) : unpack<false>(n, column, from, to, out);
  }

  template <bool kFetch>
  [[gnu::noinline]] void unpack(int n, std::int64_t column, int from, int to, Scratch& out) const {
    const auto weights = Few::template weights<kFetch>(packed(n) + column / kStep * Few::kStepBytes);
    if (from == 0) Few::decode_scales(rows.w, packed(n), column, kStep, out);
    if constexpr (requires { W::unpack(*weights.panel, out.quads); }) {
      if (from == 0) Few::unpack(weights, kStep, out);
      for (int run = from * Few::kAllRuns / kParts; run < to * Few::kAllRuns / kParts; ++run) {
        put_digits([&](int v) { return V::load_bytes(out.quads[run * W::kQuads + v]); }, run, out);
      }
    } else {
      for (int group = from * W::kGroups / kParts; group < to * W::kGroups / kParts; ++group) {
#pragma GCC unroll 8
        for (int i = 0; i < W::kRuns; ++i) {
          put_digits([&](int v) { return weights(group, i, 0, v); }, group * W::kRuns + i, out);
        }
      }
    }
  }

  template <class Quad>
  [[gnu::always_inline]] static void put_digits(const Quad& quad, int run, Scratch& out) {
    const auto scale = V::load_pairs(out.scales[run]);
    auto& digits = out.digits[run * W::kQuads / kTileRows];
    const int first = run * W::kQuads % kTileRows;
#pragma GCC unroll 8
    for (int v = 0; v < W::kQuads; ++v) {
      const auto weights = V::sub_bytes(quad(v), V::splat(W::kOffset));
      const auto even = _mm512_mullo_epi16(V::even_bytes<!W::kHasMinimum>(weights), scale),
                 odd = _mm512_mullo_epi16(V::odd_bytes<!W::kHasMinimum>(weights), scale);
      V::store_bytes(digits[0][first + v], V::bytes_of_words<0>(even, odd));
      V::store_bytes(digits[1][first + v], V::bytes_of_words<1>(even, odd));
    }
  }

  template <int kTiles, class Between>
  [[gnu::always_inline]] void multiply_unit(const Digits& digits, const std::byte* const (&x)[2],
                                            Products& products, const Between& between) const {
    const auto q = [&](int t) { return reinterpret_cast<const ActivationStep256*>(x[t])->q; };
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (kTiles == 2) {
      tile_zero<2>();
      tile_zero<3>();
    }
#pragma GCC unroll 1
    for (int k = 0; k < kDepth; ++k) {
      tile_load<6>(digits[k][0], kTileBytes);
      tile_load<4>(q(0) + k * kTileBytes, rows.stride);
      tile_dot_unsigned<0, 4, 6>();
      tile_load<7>(digits[k][1], kTileBytes);
      tile_dot_signed<1, 4, 7>();
      if constexpr (kTiles == 2) {
        tile_load<5>(q(1) + k * kTileBytes, rows.stride);
        tile_dot_unsigned<2, 5, 6>();
        tile_dot_signed<3, 5, 7>();
      }
      between(k);
    }
    tile_store<0>(products[0][0], kTileBytes);
    tile_store<1>(products[0][1], kTileBytes);
    if constexpr (kTiles == 2) {
      tile_store<2>(products[1][0], kTileBytes);
      tile_store<3>(products[1][1], kTileBytes);
    }
  }

  // Of each tile of a unit a part of its rows.
  [[gnu::noinline]] void add_part(const Unit& unit, const Products& products, int part) const {
    if (unit.tiles == 0) return;
    constexpr int kRows = kTileRows / kParts;
    const auto d = V::load(unit.ends->d), dmin = W::kHasMinimum ? V::load(unit.ends->dmin) : V::zero();
    V::I32x16 mins[kPairs + 1];
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) mins[p] = V::load_pairs(unit.ends->mins[p]);
    const int from = part * kRows, to = from + kRows < rows.rows ? from + kRows : rows.rows;
    const std::size_t stride = rows.stride;
    for (int t = 0; t < unit.tiles; ++t) {
      const std::byte* x = unit.x[t] + from * stride;
      float (*acc)[kPanelRows] = unit.acc[t];
      const bool first = unit.first;
      for (int r = from; r < to; ++r, x += stride) {
        const auto& step = *reinterpret_cast<const ActivationStep256*>(x);
        const auto total =
            V::add(V::load_vector(products[t][0][r]), V::shift_left(V::load_vector(products[t][1][r]), 8));
        V::I32x16 offset = V::izero();
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; ++p) {
          offset = _mm512_dpwssd_epi32(offset, mins[p], V::broadcast_dword(Few::run_sums(step) + 2 * p));
        }
        const auto sum = first ? V::zero() : V::load(acc[r]);
        V::store(acc[r], Few::add_scaled(d, dmin, step.scale, total, offset, sum));
      }
    }
  }
};

template <class Kernel>
void multiply_tiles(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                    std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  const int rows = m < kTileRows ? static_cast<int>(m) : kTileRows;
  const TileConfig config = Kernel::config(rows);
  const Tiles configured(config);
  const std::int64_t pass = rows_of_passes(m, kTileChunk);
  for (std::int64_t first = 0; first < m; first += pass) {
    const std::int64_t end = first + pass < m ? first + pass : m;
    const PassRows of_pass = {w, x, stride, m, rows, first, end, y, ldy};
    of_pass.for_each_slab(
        panel_begin, panel_end, kExactColumnBytes, [](auto...) {},
        [&](auto... of_panels) { Kernel{{of_pass, of_panels...}}.multiply(); });
  }
}

}  // namespace
}  // namespace trivet

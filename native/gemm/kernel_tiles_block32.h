// Exact products of weights in small blocks by the tiles of AMX. See kernel_tiles.h and kernel_block32.h.
#pragma once

#include "gemm/kernel_tiles.h"

namespace trivet {
namespace {

template <template <class> class Weights>
struct TileKernel32 : SlabPanels {
  using V = Avx512Bf16;
  using Few = Block32Kernel<V, Weights>;
  using W = Weights<V>;
  using Scratch = typename Few::Scratch;
  static constexpr int kRunColumns = 4 * W::kQuads, kRuns = W::kRuns, kStepRuns = kStep / kRunColumns;
  static_assert(!W::kHasMinimum || kRuns == 1);

  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 4; ++t) config.set(t, rows, kTileBytes);
    for (int t = 4; t < 6; ++t) config.set(t, rows, kRunColumns);
    for (int t = 6; t < 8; ++t) config.set(t, W::kQuads, kTileBytes);
    return config;
  }

  // Both panels are multiplied with a tile of rows while that is in the L1 cache; but few rows read one panel
  // after the other.
  void multiply() const {
    Scratch scratch[2];
    const int panels = rows.few() || panel + 1 >= last ? 1 : 2;
    for (std::int64_t s = 0; s < steps() / panels; ++s) {
      const Step step = this->step(s);
      for (int n = 0; n < panels; ++n) {
        const Step of_panel = this->step(s + n * steps_of_panel());
        unpack(of_panel, scratch[n]);
      }
      const int tiles = static_cast<int>(rows.tiles());
      if (rows.few()) {
        // Memory takes as long as products.
        const auto next =
            rows.later({panel + step.panel, step.column}, 1, begin, end, kFarBytes / Few::kStepBytes);
        rows.fetch_scales(next, 1);
        const std::byte* far = rows.step_at(next.panel, next.column, Few::kStepBytes);
        FetchAhead ahead = FetchAhead::halves(far, Few::kStepBytes, tiles * kStepRuns);
        add_tiles(scratch, 1, step, [&] { ahead.step(); }, [] {});
      } else {
        FetchAhead ahead = rows.fetch_after(panel, last, begin, end, step.column, 1, Few::kStepBytes, tiles);
        add_tiles(scratch, panels, step, [] {}, [&] { ahead.step(); });
      }
    }
  }

 private:
  // Calls before_tile() before each, and after_run() after each of its runs.
  template <class AfterRun, class BeforeTile>
  [[gnu::always_inline]] void add_tiles(const Scratch (&scratch)[2], int panels, const Step& step,
                                        const AfterRun& after_run, const BeforeTile& before_tile) const {
    for (std::int64_t i = 0; i < rows.tiles(); ++i) {
      before_tile();
      add_tile(scratch, panels, tile<ActivationStep32>(i, step), step.columns / kRunColumns, step.column == 0,
               sums[i / 2][i % 2] + step.panel, whole_sums(i, step), after_run);
    }
  }

  // Products are put down where those of kLag runs before were added up; there are more tiles for them.
  static constexpr int kPlaces = 4, kLag = 2;
  using Products = std::int32_t[kLag][kTileRows][kPanelRows];

  // Weights without their offset fit int8.
  [[gnu::noinline]] void unpack(const Step& step, Scratch& out) const {
    Few::decode_scales(rows.w, step.packed, step.column, step.columns, out);
    const auto weights = Few::template weights<false>(step.packed + rows.w.layout.steps +
                                                      step.column / kStep * Few::kStepBytes);
    std::uint8_t (*next)[64] = out.quads;
    for (int block = 0; block < step.columns / 32; ++block) {
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

  static void store_run(std::int32_t (&products)[kTileRows][kPanelRows], int run) {
    switch (run % kPlaces) {
      case 0:
        return tile_store<0>(products, kTileBytes);
      case 1:
        return tile_store<1>(products, kTileBytes);
      case 2:
        return tile_store<2>(products, kTileBytes);
      case 3:
        return tile_store<3>(products, kTileBytes);
    }
  }

  // acc[n] += the products of a tile of rows and a step of each panel, or = them; or so their sums in y, if
  // that is not null. Sums stay in registers.
  template <class AfterRun>
  [[gnu::noinline]] void add_tile(const Scratch (&scratch)[2], int panels, const std::byte* x, int runs,
                                  bool first, float (*acc)[kTileRows][kPanelRows], float* y,
                                  const AfterRun& after_run) const {
    struct alignas(64) {
      Products products;
      float scale[kTileRows][Few::kBlocks], sum[W::kHasMinimum ? kTileRows : 1][Few::kBlocks];
    } of_rows;
    const std::size_t stride = rows.stride;
    // Rows that a tile lacks are those of its last one, with products of no meaning.
    for (int r = 0; r < kTileRows; ++r) {
      const int row = r < rows.rows ? r : rows.rows - 1;
      const auto& step = *reinterpret_cast<const ActivationStep32*>(x + row * stride);
      __builtin_memcpy(of_rows.scale[r], step.scale, sizeof of_rows.scale[r]);
      if constexpr (W::kHasMinimum) Few::add_up_blocks(step, of_rows.sum[r]);
    }
    const std::int8_t* q = reinterpret_cast<const ActivationStep32*>(x)->q;
    for (int n = 0; n < panels; ++n) {
      typename V::F32x16 sum[kTileRows];
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) sum[r] = first ? V::zero() : V::load(acc[n][r]);
      load_run<0>(scratch[n], q, stride, 0);
      for (int run = 0; run < runs + kLag; ++run) {
        if (run < runs) {
          multiply_run(scratch[n], q, stride, run, runs);
          after_run();
        }
        if (run >= kLag) {
          const int of_run = run - kLag, block = of_run / kRuns;
          const auto(&product)[kTileRows][kPanelRows] = of_rows.products[of_run % kLag];
          const auto d = V::load(scratch[n].d[of_run]);
#pragma GCC unroll 16
          for (int r = 0; r < kTileRows; ++r) {
            const auto scale = V::mul(d, V::broadcast(of_rows.scale[r][block]));
            sum[r] = V::fma(V::small_to_float(V::load_vector(product[r])), scale, sum[r]);
          }
          if constexpr (W::kHasMinimum) {
            const auto m = V::load(scratch[n].m[block]);
#pragma GCC unroll 16
            for (int r = 0; r < kTileRows; ++r) {
              sum[r] = V::fma(m, V::broadcast(of_rows.sum[r][block]), sum[r]);
            }
          }
        }
        if (run < runs) store_run(of_rows.products[run % kLag], run);
      }
      if (y == nullptr) {
#pragma GCC unroll 16
        for (int r = 0; r < kTileRows; ++r) V::store(acc[n][r], sum[r]);
        continue;
      }
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
        if (r < rows.rows) V::store_anywhere(y + r * rows.ldy + n * kPanelRows, sum[r]);
      }
    }
  }
};

}  // namespace
}  // namespace trivet

// Exact products of weights in blocks of 256 by the tiles of AMX. See kernel_tiles.h and kernel_block256.h.
//
// A weight times the scale of its run has 16 bits, less its offset, too, and two tiles of bytes hold them:
// products need no scales then, and are summed over the whole block.
#pragma once

#include "gemm/kernel_tiles.h"

namespace trivet {
namespace {

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
    unpack(step(0), 0, kParts, scratch[place]);
    for (std::int64_t s = 0; s < steps(); ++s, place = 1 - place) {
      const Step step = this->step(s);
      FetchAhead fetch = fetch_after(s, static_cast<int>(rows.pairs()) * kParts);
      ends[place].copy(scratch[place]);
      for (std::int64_t i = 0; i < rows.tiles(); i += 2) {
        const int tiles = i + 1 < rows.tiles() ? 2 : 1;
        TileSums& of_pair = sums[i / 2];
        const Unit unit = {&ends[place],
                           {tile<ActivationStep256>(i, step), tile<ActivationStep256>(i + tiles - 1, step)},
                           {of_pair[0][step.panel], of_pair[1][step.panel]},
                           {whole_sums(i, step), whole_sums(i + tiles - 1, step)},
                           tiles,
                           step.column == 0};
        // Beside the step's last products the next one is unpacked.
        const bool unpacks = i + tiles == rows.tiles() && s + 1 < steps();
        const auto between = [&](int part) {
          fetch.step();
          add_part(last, products, part);
          if (unpacks) unpack(this->step(s + 1), part, part + 1, scratch[1 - place]);
        };
        const auto& digits = scratch[place].digits;
        tiles == 2 ? multiply_unit<2>(digits, unit.x, products, between)
                   : multiply_unit<1>(digits, unit.x, products, between);
        last = unit;
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
    static constexpr bool kTwice = true;
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

  // Fetches what is unpacked beside the step after this one, but for few rows, whose unpacking does.
  FetchAhead fetch_after(std::int64_t s, int times) const {
    const std::int64_t next = s + 2, panels = next < steps() ? 0 : 2;
    const Step step = this->step(next % steps());
    const bool any = !rows.few() && panel + panels < last;
    return FetchAhead::halves(rows.step_at(panel + step.panel + panels, step.column, Few::kStepBytes),
                              any ? Few::kStepBytes : 0, times);
  }

  // One or two tiles of rows and a step of a panel.
  struct Unit {
    const Ends* ends;
    const std::byte* x[2];
    float (*acc[2])[kPanelRows];
    float* y[2];  // where whole sums go
    int tiles;    // 0: none
    bool first;
  };

  // Parts [from, to) of a step.
  void unpack(const Step& step, int from, int to, Scratch& out) const {
    rows.few() ? unpack<true>(step, from, to, out) : unpack<false>(step, from, to, out);
  }

  template <bool kFetch>
  [[gnu::noinline]] void unpack(const Step& step, int from, int to, Scratch& out) const {
    const auto weights = Few::template weights<kFetch>(step.packed + rows.w.layout.steps +
                                                       step.column / kStep * Few::kStepBytes);
    if (from == 0) Few::decode_scales(rows.w, step.packed, step.column, kStep, out);
    if constexpr (requires { W::unpack(*weights.panel, out.quads); }) {
      if (from == 0) Few::unpack(weights, kStep, out);
      for (int run = from * Few::kAllRuns / kParts; run < to * Few::kAllRuns / kParts; ++run) {
        put_digits([&](int v) { return V::load_bytes(out.quads[run * W::kQuads + v]); }, run, out);
      }
    } else {
      const int first = from * Few::kAllRuns / kParts, end = to * Few::kAllRuns / kParts;
      for (int group = first / W::kRuns; group * W::kRuns < end; ++group) {
#pragma GCC unroll 8
        for (int i = 0; i < W::kRuns; ++i) {
          const int run = group * W::kRuns + i;
          if (run >= first && run < end) put_digits([&](int v) { return weights(group, i, 0, v); }, run, out);
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
      V::store_bytes(digits[0][first + v], V::template bytes_of_words<0>(even, odd));
      V::store_bytes(digits[1][first + v], V::template bytes_of_words<1>(even, odd));
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
    // An operand is loaded as soon as its last product has begun.
    tile_load<4>(q(0), rows.stride);
    tile_load<6>(digits[0][0], kTileBytes);
    tile_load<7>(digits[0][1], kTileBytes);
    if constexpr (kTiles == 2) tile_load<5>(q(1), rows.stride);
#pragma GCC unroll 1
    for (int k = 0; k < kDepth; ++k) {
      const bool more = k + 1 < kDepth;
      tile_dot_unsigned<0, 4, 6>();
      tile_dot_signed<1, 4, 7>();
      if (more) tile_load<4>(q(0) + (k + 1) * kTileBytes, rows.stride);
      if constexpr (kTiles == 2) tile_dot_unsigned<2, 5, 6>();
      if (more) tile_load<6>(digits[k + 1][0], kTileBytes);
      if constexpr (kTiles == 2) tile_dot_signed<3, 5, 7>();
      if (more) {
        tile_load<7>(digits[k + 1][1], kTileBytes);
        if constexpr (kTiles == 2) tile_load<5>(q(1) + (k + 1) * kTileBytes, rows.stride);
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
      float* y = unit.y[t] == nullptr ? nullptr : unit.y[t] + from * rows.ldy;
      for (int r = from; r < to; ++r, x += stride) {
        const auto& step = *reinterpret_cast<const ActivationStep256*>(x);
        const auto total =
            V::add(V::load_vector(products[t][0][r]), V::shift_left(V::load_vector(products[t][1][r]), 8));
        V::I32x16 offset = V::izero();
#pragma GCC unroll 8
        for (int p = 0; p < kPairs; ++p) {
          offset = _mm512_dpwssd_epi32(offset, mins[p], V::broadcast_dword(Few::run_sums(step) + 2 * p));
        }
        const auto sum =
            Few::add_scaled(d, dmin, step.scale, total, offset, first ? V::zero() : V::load(acc[r]));
        if (y == nullptr) {
          V::store(acc[r], sum);
        } else {
          V::store_anywhere(y, sum);
          y += rows.ldy;
        }
      }
    }
  }
};

}  // namespace
}  // namespace trivet

// Products of tiles of bfloat16 by AMX.
//
// A row of a product of tiles depends on no other, so a row has the same bits whatever it comes with.
#pragma once

#include "amx.h"
#include "attention/tile_products.h"

namespace trivet {
namespace {

static_assert(kRowTile == kTileRows && kRowBytes == kTileBytes);

// Of rows in kParts parts, high and low or one.
template <int kParts>
class AmxProducts {
 public:
  static constexpr int kRowParts = kParts;

  explicit AmxProducts(int rows) : config_(config(rows)), tiles_(config_) {}

  // `count` tiles of sums, each = a . b, or += with kAdd, of so many columns of tiles of b. a is
  // [steps][kRowParts], b [steps][columns][kColumnParts].
  template <int kColumnParts, bool kAdd, int kTiles = 4>
  void multiply(const std::byte* a, const std::byte* b, int steps, int columns, int count, Sums sums,
                int first = 0) const {
    for (; first + kTiles <= count; first += kTiles) {
      multiply_tiles<kTiles, kColumnParts, kAdd>(a, b + std::int64_t{first} * kColumnParts * kPart, steps,
                                                 columns,
                                                 {sums.first + first * sums.next, sums.stride, sums.next});
    }
    if constexpr (kTiles > 1) {
      multiply<kColumnParts, kAdd, kTiles / 2>(a, b, steps, columns, count, sums, first);
    }
  }

 private:
  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 6; ++t) config.set(t, rows, kRowBytes);
    for (int t = 6; t < 8; ++t) config.set(t, kRowTile, kRowBytes);
    return config;
  }

  template <int kTiles, int kColumnParts, bool kAdd>
  static void multiply_tiles(const std::byte* a, const std::byte* b, int steps, int columns, Sums sums) {
    unrolled<kTiles>([&](auto t) {
      if constexpr (kAdd) {
        tile_load<t>(sums.first + t * sums.next, sums.stride * sizeof(float));
      } else {
        tile_zero<t>();
      }
    });
    for (int s = 0; s < steps; ++s, a += kParts * kPart, b += std::int64_t{columns} * kColumnParts * kPart) {
      tile_load<4>(a, kRowBytes);
      if constexpr (kParts > 1) tile_load<5>(a + kPart, kRowBytes);
      multiply_step<0, kTiles, kColumnParts>(b);
    }
    unrolled<kTiles>([&](auto t) { tile_store<t>(sums.first + t * sums.next, sums.stride * sizeof(float)); });
  }

  // Products of kTiles tiles of sums (from number C on) with the same number of tiles b.
  template <int C, int kTiles, int kColumnParts>
  TRIVET_INLINE static void multiply_step(const std::byte* b) {
    constexpr bool kTwo = kTiles > 1;
    for (int part = 0; part < kColumnParts; ++part) {
      tile_load<6>(b + part * kPart, kRowBytes);
      if constexpr (kTwo) tile_load<7>(b + (part + kColumnParts) * kPart, kRowBytes);
      tile_dot_bf16<C, 4, 6>();
      if constexpr (kTwo) tile_dot_bf16<C + 1, 4, 7>();
      if constexpr (kParts > 1) {
        tile_dot_bf16<C, 5, 6>();
        if constexpr (kTwo) tile_dot_bf16<C + 1, 5, 7>();
      }
    }
    if constexpr (kTiles > 2) multiply_step<C + 2, kTiles - 2, kColumnParts>(b + 2 * kColumnParts * kPart);
  }

  TileConfig config_;
  Tiles tiles_;
};

}  // namespace
}  // namespace trivet

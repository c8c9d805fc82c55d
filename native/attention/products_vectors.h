// Products of tiles of bfloat16 by the vectors of AVX-512 BF16.
#pragma once

#include "attention/row_blocks.h"
#include "attention/tile_products.h"

namespace trivet {
namespace {

class VectorProducts {
 public:
  static constexpr int kRowParts = 1;

  explicit VectorProducts(int rows) : rows_(rows) {}

  // `count` tiles of sums, each = a . b, or += with kAdd, of so many columns of tiles of b. a is [steps], b
  // [steps][columns].
  template <int kColumnParts, bool kAdd, int kTiles = 4>
  void multiply(const std::byte* a, const std::byte* b, int steps, int columns, int count, Sums sums,
                int first = 0) const {
    static_assert(kColumnParts == 1);
    for (; first + kTiles <= count; first += kTiles) {
      for_row_blocks(rows_, [&]<int R>(int row) {
        multiply_rows<R, kTiles, kAdd>(
            a + row * kRowBytes, b + first * kPart, steps, columns,
            {sums.first + row * sums.stride + first * sums.next, sums.stride, sums.next});
      });
    }
    if constexpr (kTiles > 1) {
      multiply<kColumnParts, kAdd, kTiles / 2>(a, b, steps, columns, count, sums, first);
    }
  }

 private:
  template <int R, int kTiles, bool kAdd>
  [[gnu::noinline]] static void multiply_rows(const std::byte* a, const std::byte* b, int steps, int columns,
                                              Sums sums) {
    Vec totals[R][kTiles] = {};
    const auto each = [&](auto&& f) {
      unrolled<R>([&](auto r) {
        unrolled<kTiles>([&](auto t) { f(totals[r][t], sums.first + r * sums.stride + t * sums.next); });
      });
    };
    if constexpr (kAdd) each([](Vec& total, const float* sum) { total = load(sum); });
    for (int s = 0; s < steps; ++s, a += kPart, b += std::int64_t{columns} * kPart) {
      for (int pair = 0; pair < kTile; ++pair) {
        __m512bh of_column[kTiles];
        unrolled<kTiles>(
            [&](auto t) { of_column[t] = (__m512bh)_mm512_load_si512(b + t * kPart + pair * kRowBytes); });
        unrolled<R>([&](auto r) {
          std::int32_t elements;
          std::memcpy(&elements, a + r * kRowBytes + pair * 4, sizeof elements);
          const auto of_row = (__m512bh)_mm512_set1_epi32(elements);
          unrolled<kTiles>(
              [&](auto t) { totals[r][t] = _mm512_dpbf16_ps(totals[r][t], of_row, of_column[t]); });
        });
      }
    }
    each([](const Vec& total, float* sum) { store(sum, total); });
  }

  int rows_;
};

}  // namespace
}  // namespace trivet

// Float weights times many rows, two panels at a time: the values of a row that are broadcast serve
// both. See kernel.h and kernel_float.h; a row goes through the same operations in the same order as there.
#pragma once

#include "gemm/kernel.h"
#include "gemm/memory.h"

namespace trivet {
namespace {

template <class V, class K>
struct FloatPairs {
  using F = typename V::F32x16;
  using Value = typename K::Term::Value;
  // Rows of a pass, columns of a slab, whose activations (1 MiB) stay in the L2 cache while a group of panels
  // goes over them.
  static constexpr int kPassRows = 128, kSlabColumns = 2048, kGroup = 16;
  static_assert(kGroup * kPassRows * kPanelRows <= kProductSums && kSlabColumns % K::kColumns == 0);

  using Columns = float[K::kColumns][2][kPanelRows];

  static void multiply(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                       std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
    alignas(64) Columns columns;
    auto* sums = reinterpret_cast<float (*)[kPanelRows]>(product_sums());
    for (std::int64_t first = 0; first < m; first += kPassRows) {
      const int rows = m - first < kPassRows ? static_cast<int>(m - first) : kPassRows;
      for (std::int64_t begin = panel_begin; begin < panel_end; begin += kGroup) {
        const int panels = panel_end - begin < kGroup ? static_cast<int>(panel_end - begin) : kGroup;
        clear(sums, (panels + 1) / 2 * 2 * kPassRows);
        for (std::int64_t slab = 0; slab < w.columns; slab += kSlabColumns) {
          const std::int64_t end = slab + kSlabColumns < w.columns ? slab + kSlabColumns : w.columns;
          for (int n = 0; n < panels; n += 2) {
            for (std::int64_t c = slab; c < end; c += K::kColumns) {
              const int count = end - c < K::kColumns ? static_cast<int>(end - c) : K::kColumns;
              unpack(w, begin + n, c, count, 0, columns);
              if (n + 1 < panels) unpack(w, begin + n + 1, c, count, 1, columns);
              multiply_rows<V::kFloatRows>(columns, x + first * stride, stride, rows, c, count,
                                           sums + n * kPassRows);
            }
          }
        }
        store_group(w, begin, panels, sums, kPassRows, rows, y + first * ldy, ldy);
      }
    }
  }

 private:
  static void unpack(const Panels& w, std::int64_t panel, std::int64_t column, int count, int place,
                     Columns& out) {
    const auto weights =
        K::weights(w.data + panel * w.layout.bytes + w.layout.steps + column / K::kColumns * K::kStepBytes);
    const int vectors = K::vectors(count);
    for (int n = 0; n < vectors; n += 2) {
      V::store(out[n][place], weights(n, 0));
      if (n + 1 < vectors) V::store(out[n + 1][place], weights(n + 1, 1));
    }
  }

  template <int M>
  static void multiply_rows(const Columns& columns, const std::byte* x, std::size_t stride, int rows,
                            std::int64_t column, int count, float (*acc)[kPanelRows]) {
    for (; rows >= M; rows -= M, x += M * stride, acc += M) tile<M>(columns, x, stride, column, count, acc);
    if constexpr (M > 1) multiply_rows<M / 2>(columns, x, stride, rows, column, count, acc);
  }

  template <int M>
  [[gnu::noinline]] static void tile(const Columns& columns, const std::byte* x, std::size_t stride,
                                     std::int64_t first, int count, float (*acc)[kPanelRows]) {
    const Value* rows[M];
    F sum[2][M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      rows[i] = reinterpret_cast<const Value*>(x + i * stride) + first / K::Term::kColumns;
      sum[0][i] = sum[1][i] = V::zero();
    }
    for (int n = 0; n < K::vectors(count); ++n) {
      const F w0 = V::load(columns[n][0]), w1 = V::load(columns[n][1]);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        sum[0][i] = K::Term::add(w0, rows[i][n], sum[0][i]);
        sum[1][i] = K::Term::add(w1, rows[i][n], sum[1][i]);
      }
    }
#pragma GCC unroll 2
    for (int n = 0; n < 2; ++n) {
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        float* of_row = acc[n * kPassRows + i];
        V::store(of_row, V::add(V::load(of_row), sum[n][i]));
      }
    }
  }
};

// Few rows wait for the weights, which one panel at a time is enough for.
template <class V, class K>
void multiply_floats(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                     std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  (m <= V::kFloatRows ? multiply<V, K> : FloatPairs<V, K>::multiply)(w, x, stride, m, panel_begin, panel_end,
                                                                     y, ldy);
}

}  // namespace
}  // namespace trivet

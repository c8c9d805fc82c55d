// Float weights times many rows, two panels at a time: the values of a row that are broadcast serve
// both. See kernel.h and kernel_float.h; a row goes through the same operations in the same order as there.
#pragma once

#include "gemm/kernel.h"
#include "gemm/memory.h"

namespace trivet {
namespace {

// Writes the sums of `count` rows and so many panels, which are `rows` apart.
inline void store_group(const Panels& w, std::int64_t panel, int panels, const float (*acc)[kPanelRows],
                        int rows, int count, float* y, std::int64_t ldy) {
  const std::int64_t first = panel * kPanelRows;
  const int whole = w.rows - first < panels * kPanelRows ? panels - 1 : panels;
  for (int i = 0; i < count; ++i) {
    float* row = y + i * ldy + first;
    for (int n = 0; n < whole; ++n) {
      for (int r = 0; r < kPanelRows; ++r) row[n * kPanelRows + r] = acc[n * rows + i][r] * w.scale;
    }
  }
  if (whole < panels) store_rows(w, panel + whole, acc + whole * rows, count, y, ldy);
}

template <class V, class K>
struct FloatPairs {
  using F = typename V::F32x16;
  using Value = typename K::Term::Value;
  // Panels of a group and columns of a slab: its weights come from memory once, for all passes of rows, whose
  // activations (1 MiB) stay in the L2 cache while the group goes over them.
  static constexpr int kPassRows = 128, kSlabColumns = 2048, kGroup = 16;
  static_assert(kGroup * kPassRows * kPanelRows <= kProductSums && kSlabColumns % K::kColumns == 0);

  using Weights = F32Weights<V, false>;
  // The first block of rows fetches what comes next of the first panel, the second that of the second: a line
  // for so many vectors.
  static constexpr int kLineVectors = K::vectors(K::kColumns) / (K::kStepBytes / 64);

  static void multiply(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                       std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
    typename K::Scratch scratch[2];
    auto* sums = reinterpret_cast<float (*)[kPanelRows]>(product_sums());
    for (std::int64_t begin = panel_begin; begin < panel_end; begin += kGroup) {
      const int panels = panel_end - begin < kGroup ? static_cast<int>(panel_end - begin) : kGroup;
      for (std::int64_t first = 0; first < m; first += kPassRows) {
        const int rows = m - first < kPassRows ? static_cast<int>(m - first) : kPassRows;
        for (int n = 0; n < (panels + 1) / 2 * 2; ++n) clear(sums + n * kPassRows, rows);
        for (std::int64_t slab = 0; slab < w.columns; slab += kSlabColumns) {
          const std::int64_t end = slab + kSlabColumns < w.columns ? slab + kSlabColumns : w.columns;
          for (int n = 0; n < panels; n += 2) {
            const std::byte* panel = w.data + (begin + n) * w.layout.bytes + w.layout.steps;
            // The last panel of an odd number is its own neighbour.
            const std::size_t next = n + 1 < panels ? w.layout.bytes : 0;
            for (std::int64_t c = slab; c < end; c += K::kColumns) {
              const int count = end - c < K::kColumns ? static_cast<int>(end - c) : K::kColumns;
              const std::byte* step = panel + c / K::kColumns * K::kStepBytes;
              const Weights weights[2] = {
                  K::unpack(K::template weights<false>(step), count, scratch[0]),
                  K::unpack(K::template weights<false>(step + next), count, scratch[1])};
              multiply_rows(weights, step, next, x + first * stride, stride, rows, c, count,
                            sums + n * kPassRows);
            }
          }
        }
        store_group(w, begin, panels, sums, kPassRows, rows, y + first * ldy, ldy);
      }
    }
  }

 private:
  static void multiply_rows(const Weights (&weights)[2], const std::byte* step, std::size_t next,
                            const std::byte* x, std::size_t stride, int rows, std::int64_t column, int count,
                            float (*acc)[kPanelRows]) {
    constexpr int kRows = V::kFloatRows;
    for (int i = 0; i < rows; i += kRows) {
      const std::byte* ahead = i == 0 ? step : i == kRows && next != 0 ? step + next : nullptr;
      block<kRows>(weights, ahead, x + i * stride, stride, rows - i, column, count, acc + i);
    }
  }

  // At most M rows.
  template <int M>
  static void block(const Weights (&weights)[2], const std::byte* ahead, const std::byte* x,
                    std::size_t stride, int rows, std::int64_t column, int count, float (*acc)[kPanelRows]) {
    if (rows >= M) {
      (ahead == nullptr ? tile<M, false> : tile<M, true>)(weights, ahead, x, stride, column, count, acc);
    } else if constexpr (M > 1) {
      block<M - 1>(weights, ahead, x, stride, rows, column, count, acc);
    }
  }

  template <int M, bool kFetch>
  [[gnu::noinline]] static void tile(const Weights (&weights)[2], const std::byte* ahead, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    const Value* rows[M];
    F sum[2][M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      rows[i] = reinterpret_cast<const Value*>(x + i * stride) + first / K::Term::kColumns;
      sum[0][i] = sum[1][i] = V::zero();
    }
    for (int n = 0; n < K::vectors(count); ++n) {
      if (kFetch && n % kLineVectors == 0) V::prefetch(ahead + n / kLineVectors * 64);
      const F w0 = weights[0](n, 0), w1 = weights[1](n, 0);
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
template <class V, class K, class Single = void>
void multiply_floats(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                     std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  (m <= V::kFloatRows ? multiply<V, K, Single> : FloatPairs<V, K>::multiply)(w, x, stride, m, panel_begin,
                                                                             panel_end, y, ldy);
}

}  // namespace
}  // namespace trivet

// F32, F16 and BF16 weights times float32 activations. See kernel.h.
#pragma once

#include "gemm/kernels.h"

namespace trivet {
namespace {

// Columns are summed with fused multiply-adds in runs of 32, ascending, and the runs' sums added ascending:
// short chains are more accurate, and a single row can work on four of them at a time, which hides the
// latency of the adds.
constexpr int kRun = 32;

template <class V>
struct F32Weights {
  const float (*columns)[kPanelRows];

  // `odd` is column % 2, known when compiling.
  typename V::F32x16 operator()(int column, int /*odd*/) const { return V::load(columns[column]); }
};

template <class V>
struct F16Weights {
  const std::uint16_t (*columns)[kPanelRows];

  typename V::F32x16 operator()(int column, int /*odd*/) const { return V::load_f16(columns[column]); }
};

template <class V>
struct BF16Weights {
  const std::uint32_t (*pairs)[kPanelRows];

  typename V::F32x16 operator()(int column, int odd) const {
    const std::uint32_t* pair = pairs[column / 2];
    return odd ? V::load_bf16_odd(pair) : V::load_bf16_even(pair);
  }
};

template <class V>
struct FloatKernel {
  static constexpr int kColumns = 4 * kRun;
  static constexpr int kRows = V::kFloatRows;
  static constexpr bool kDirect = true;
  using F = typename V::F32x16;

  struct alignas(64) Scratch {
    float columns[kColumns][kPanelRows];
  };

  static void decode_scales(const Panels&, const std::byte*, std::int64_t, int, Scratch&) {}

  template <class Weights>
  static F32Weights<V> unpack(const Weights& weights, int count, Scratch& scratch) {
    for (int c = 0; c < count; c += 2) {
      V::store(scratch.columns[c], weights(c, 0));
      if (c + 1 < count) V::store(scratch.columns[c + 1], weights(c + 1, 1));
    }
    return {scratch.columns};
  }

  // part[j] += the products of column c of run j.
  template <int M, int Runs, class Weights>
  static void add_column(const Weights& weights, int column, int odd, const float* const x[M],
                         F (&part)[Runs][M]) {
    for (int j = 0; j < Runs; ++j) {
      const F w = weights(column + j * kRun, odd);
      for (int i = 0; i < M; ++i) part[j][i] = V::fma(w, V::broadcast(x[i][column + j * kRun]), part[j][i]);
    }
  }

  // Adds `Runs` runs of `length` columns, the first at an even `begin`.
  template <int M, int Runs, class Weights>
  static void add_runs(const Weights& weights, int begin, int length, const float* const x[M], F (&sum)[M]) {
    F part[Runs][M];
    for (int j = 0; j < Runs; ++j) {
      for (int i = 0; i < M; ++i) part[j][i] = V::zero();
    }
    int k = 0;
    for (; k + 1 < length; k += 2) {
      add_column<M, Runs>(weights, begin + k, 0, x, part);
      add_column<M, Runs>(weights, begin + k + 1, 1, x, part);
    }
    if (k < length) add_column<M, Runs>(weights, begin + k, 0, x, part);
    for (int j = 0; j < Runs; ++j) {
      for (int i = 0; i < M; ++i) sum[i] = V::add(sum[i], part[j][i]);
    }
  }

  template <int M, class Weights>
  [[gnu::noinline]] static void tile(const Weights& weights, const Scratch&, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    constexpr int kRuns = M < 4 ? 4 / M : 1;
    const float* rows[M];
    F sum[M];
    for (int i = 0; i < M; ++i) {
      rows[i] = reinterpret_cast<const float*>(x + i * stride) + first;
      sum[i] = V::load(acc[i]);
    }
    int c = 0;
    for (; c + kRuns * kRun <= count; c += kRuns * kRun) add_runs<M, kRuns>(weights, c, kRun, rows, sum);
    for (; c < count; c += kRun) add_runs<M, 1>(weights, c, count - c < kRun ? count - c : kRun, rows, sum);
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }
};

template <class V>
struct KernelF32 : FloatKernel<V> {
  static constexpr int kStepBytes = KernelF32::kColumns * 64;

  static F32Weights<V> weights(const std::byte* step) {
    return {reinterpret_cast<const float (*)[kPanelRows]>(step)};
  }
  static F32Weights<V> unpack(const F32Weights<V>& weights, int, typename FloatKernel<V>::Scratch&) {
    return weights;
  }
};

template <class V>
struct KernelF16 : FloatKernel<V> {
  static constexpr int kStepBytes = KernelF16::kColumns * 32;

  static F16Weights<V> weights(const std::byte* step) {
    return {reinterpret_cast<const std::uint16_t (*)[kPanelRows]>(step)};
  }
};

template <class V>
struct KernelBF16 : FloatKernel<V> {
  static constexpr int kStepBytes = KernelBF16::kColumns * 32;

  static BF16Weights<V> weights(const std::byte* step) {
    return {reinterpret_cast<const std::uint32_t (*)[kPanelRows]>(step)};
  }
};

}  // namespace
}  // namespace trivet

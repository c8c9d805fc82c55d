// F32, F16 and BF16 weights times float32 activations, and BF16 weights times such activations. See kernel.h.
#pragma once

#include "gemm/fetch.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

template <class V, bool kFetch>
struct F32Weights {
  const float (*columns)[kPanelRows];

  // `odd` is column % 2, known when compiling.
  typename V::F32x16 operator()(int column, int /*odd*/) const {
    if constexpr (kFetch) V::prefetch(columns[column]);
    return V::load(columns[column]);
  }
};

template <class V, bool kFetch>
struct F16Weights {
  const std::uint16_t (*columns)[kPanelRows];

  typename V::F32x16 operator()(int column, int odd) const {
    if (kFetch && !odd) V::prefetch(columns[column]);
    return V::load_f16(columns[column]);
  }
};

template <class V, bool kFetch>
struct BF16Weights {
  const std::uint32_t (*pairs)[kPanelRows];

  typename V::F32x16 operator()(int column, int odd) const {
    const std::uint32_t* pair = pairs[column / 2];
    if (kFetch && !odd) V::prefetch(pair);
    return odd ? V::load_bf16_odd(pair) : V::load_bf16_even(pair);
  }
};

// What a vector of weights is multiplied with: the float of its column.
template <class V>
struct OneColumn {
  using Value = float;
  static constexpr int kColumns = 1;

  static typename V::F32x16 add(typename V::F32x16 w, Value x, typename V::F32x16 sum) {
    return V::fma(w, V::broadcast(x), sum);
  }
};

// The two bfloat16 of its columns.
template <class V>
struct TwoColumns {
  using Value = std::int32_t;
  static constexpr int kColumns = 2;

  static typename V::F32x16 add(typename V::F32x16 w, Value x, typename V::F32x16 sum) {
    return V::dot_bf16(w, V::broadcast(x), sum);
  }
};

template <class V, class T = OneColumn<V>>
struct FloatKernel {
  // A step's products are summed with fused multiply-adds, ascending, and the steps' sums added ascending:
  // short chains are more accurate than one. One row alone waits for each add, but memory is slower still.
  static constexpr int kColumns = 128;
  static constexpr int kRows = V::kFloatRows;
  static constexpr bool kDirect = true;
  using Term = T;
  using F = typename V::F32x16;

  struct alignas(64) Scratch {
    float columns[kColumns][kPanelRows];
  };

  // Vectors of weights of so many columns.
  static constexpr int vectors(int columns) { return (columns + T::kColumns - 1) / T::kColumns; }

  static void decode_scales(const Panels&, const std::byte*, std::int64_t, int, Scratch&) {}

  template <class Weights>
  static F32Weights<V, false> unpack(const Weights& weights, int count, Scratch& scratch) {
    for (int c = 0; c < count; c += 2) {
      V::store(scratch.columns[c], weights(c, 0));
      if (c + 1 < count) V::store(scratch.columns[c + 1], weights(c + 1, 1));
    }
    return {scratch.columns};
  }

  template <int M, class Weights>
  [[gnu::noinline]] static void tile(const Weights& weights, const Scratch&, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    const typename T::Value* rows[M];
    F sum[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      rows[i] = reinterpret_cast<const typename T::Value*>(x + i * stride) + first / T::kColumns;
      sum[i] = V::zero();
    }
    const auto add_vector = [&](int vector, int odd) {
      const F w = weights(vector, odd);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) sum[i] = T::add(w, rows[i][vector], sum[i]);
    };
    int n = 0;
    for (; n + 1 < vectors(count); n += 2) {
      add_vector(n, 0);
      add_vector(n + 1, 1);
    }
    if (n < vectors(count)) add_vector(n, 0);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) V::store(acc[i], V::add(V::load(acc[i]), sum[i]));
  }
};

// Of weights that are multiplied as they lie in the panel.
template <class V, class T>
struct StoredKernel : FloatKernel<V, T> {
  static constexpr bool kDirect = false;  // what unpack() gives is the panel in any case
  static constexpr int kStepBytes = StoredKernel::kColumns / T::kColumns * 64;

  template <bool kFetch = true>
  static F32Weights<V, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const float (*)[kPanelRows]>(step)};
  }
  template <bool kFetch>
  static F32Weights<V, kFetch> unpack(const F32Weights<V, kFetch>& weights, int,
                                      typename StoredKernel::Scratch&) {
    return weights;
  }
};

template <class V>
using KernelF32 = StoredKernel<V, OneColumn<V>>;

template <class V>
using KernelBF16Pairs = StoredKernel<V, TwoColumns<V>>;

template <class V>
struct KernelF16 : FloatKernel<V> {
  static constexpr int kStepBytes = KernelF16::kColumns * 32;

  template <bool kFetch = true>
  static F16Weights<V, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const std::uint16_t (*)[kPanelRows]>(step)};
  }
};

template <class V>
struct KernelBF16 : FloatKernel<V> {
  static constexpr int kStepBytes = KernelBF16::kColumns * 32;

  template <bool kFetch = true>
  static BF16Weights<V, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const std::uint32_t (*)[kPanelRows]>(step)};
  }
};

}  // namespace
}  // namespace trivet

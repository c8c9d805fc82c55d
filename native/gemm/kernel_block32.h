// Weights in small blocks times int8 activations with a scale per 32 columns. See kernel.h and
// kernel_block.h.
#pragma once

#include "gemm/kernel_block.h"
#include "gemm/weights_block32.h"

namespace trivet {
namespace {

// A weight is scale * (w - W::kOffset) + minimum. A group is 32 columns, of one or two runs.
template <class V, template <class> class Weights>
struct Block32Kernel {
  using W = Weights<V>;
  using F = typename V::F32x16;
  using I = typename V::I32x16;
  static constexpr int kColumns = kStep;
  static constexpr int kStepBytes = kStep / 32 * sizeof(typename W::Panel);
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = V::kDirectBytes;
  static constexpr RowPairs kOne = same_for_all(1, 1);
  // By which the sums of the halves of a block are multiplied to take the offset off each run.
  static constexpr int kOffset = kExcess<V, W>;
  static constexpr RowPairs kMinusOffset[2] = {same_for_all(-kOffset, W::kRuns == 1 ? -kOffset : 0),
                                               same_for_all(0, -kOffset)};

  struct alignas(64) Scratch {
    float d[kStep / 32 * W::kRuns][kPanelRows];
    float m[W::kHasMinimum ? kStep / 32 : 1][kPanelRows];
    std::uint8_t quads[kParts<V, W> * kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int count,
                            Scratch& out) {
    const std::byte* scales = panel + column / 32 * W::kScaleBytes;
    fetch_part<V, kStep / 32 * W::kScaleBytes>(scales, 0, 1);
    W::scales(scales, count / 32, out);
  }

  template <bool kFetch = true>
  static PackedQuads<V, W, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const typename W::Panel*>(step)};
  }

  template <bool kFetch>
  static UnpackedQuads<V, W> unpack(const PackedQuads<V, W, kFetch>& weights, int count, Scratch& scratch) {
    return unpack_quads(weights, count / 32, scratch.quads);
  }

  // The weights of a run are `scale` times w, plus `minimum`.
  static void line(const Scratch& scratch, int run, F& scale, F& minimum) {
    scale = V::load(scratch.d[run]);
    if constexpr (W::kHasMinimum) {
      minimum = V::load(scratch.m[run / W::kRuns]);
    } else {
      minimum = V::mul(scale, V::broadcast(static_cast<float>(-W::kOffset)));
    }
  }

  template <int M, class Quads>
  [[gnu::noinline]] static void tile(const Quads& quads, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep32> rows(x, stride, first);
    F sum[M];
    for (int i = 0; i < M; ++i) sum[i] = V::load(acc[i]);
    for (int b = 0; b < count / 32; ++b) {
      const std::int16_t* halves = rows.step[0]->sum16 + 2 * b;
#pragma GCC unroll 2
      for (int run = 0; run < W::kRuns; ++run) {
        I total[M];
        for (int i = 0; i < M; ++i) total[i] = V::izero();
        const int column = 32 * b + 4 * W::kQuads * run;
        dot_run<V, W, false>(quads, b, run, kOne, rows.q, column, total);
        if constexpr (kOffset != 0) {
          V::template dot_words<M, 1>(kMinusOffset + run, halves, stride, total);
        }
        const F d = V::load(scratch.d[b * W::kRuns + run]);
        for (int i = 0; i < M; ++i) {
          const F scale = V::mul(d, V::broadcast(rows.step[i]->scale[b]));
          sum[i] = V::fma(V::to_float(total[i]), scale, sum[i]);
        }
      }
      if constexpr (W::kHasMinimum) {
        const F m = V::load(scratch.m[b]);
        I total[M];
        for (int i = 0; i < M; ++i) total[i] = V::izero();
        V::template dot_words<M, 1>(&kOne, halves, stride, total);
        for (int i = 0; i < M; ++i) {
          const F minimum = V::mul(m, V::broadcast(rows.step[i]->scale[b]));
          sum[i] = V::fma(V::to_float(total[i]), minimum, sum[i]);
        }
      }
    }
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }
};

}  // namespace
}  // namespace trivet

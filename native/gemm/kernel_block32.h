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
  static constexpr int kBlocks = kStep / 32;

  struct alignas(64) Scratch {
    float d[kBlocks * W::kRuns][kPanelRows];
    float m[W::kHasMinimum ? kBlocks : 1][kPanelRows];
    std::uint8_t quads[kParts<V, W> * kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int count,
                            Scratch& out) {
    const std::byte* scales = panel + column / 32 * W::kScaleBytes;
    fetch_part<V, kBlocks * W::kScaleBytes, 1>(scales, 0);
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

  // All weights are to be `factor` times what they are.
  static void multiply_scales(Scratch& scratch, float factor) {
    for (auto& d : scratch.d) V::store(d, V::mul(V::load(d), V::broadcast(factor)));
    if constexpr (W::kHasMinimum) {
      for (auto& m : scratch.m) V::store(m, V::mul(V::load(m), V::broadcast(factor)));
    }
  }

  // The weights of a run are `scale` times w + `bias`, plus `minimum`.
  static F scale(const Scratch& scratch, int run) { return V::load(scratch.d[run]); }

  static F minimum(const Scratch& scratch, int run, F scale, float bias) {
    if constexpr (W::kHasMinimum) {
      const F least = V::load(scratch.m[run / W::kRuns]);
      return bias == 0 ? least : V::fnma(scale, V::broadcast(bias), least);
    } else {
      return V::mul(scale, V::broadcast(-W::kOffset - bias));
    }
  }

  // Of a row's step: minus the offset of the weights times the sums of runs; or the sums of blocks, scaled.
  struct Sums {
    std::int32_t start[W::kRuns][kBlocks];
    float block[W::kHasMinimum ? kBlocks : 1];
  };

  static void add_up_blocks(const ActivationStep32& step, float (&out)[kBlocks]) {
    const auto& [first, last] = step.sum16;
    for (int b = 0; b < kBlocks; ++b) out[b] = static_cast<float>(first[b] + last[b]) * step.scale[b];
  }

  static void add_up(const ActivationStep32& step, Sums& out) {
    const auto& [first, last] = step.sum16;
    if constexpr (W::kHasMinimum) {
      add_up_blocks(step, out.block);
    } else if constexpr (W::kRuns == 1) {
      for (int b = 0; b < kBlocks; ++b) out.start[0][b] = -kExcess<V, W> * (first[b] + last[b]);
    } else {
      for (int b = 0; b < kBlocks; ++b) out.start[0][b] = -kExcess<V, W> * first[b];
      for (int b = 0; b < kBlocks; ++b) out.start[1][b] = -kExcess<V, W> * last[b];
    }
  }

  template <int M, class Quads>
  [[gnu::noinline]] static void tile(const Quads& quads, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep32> rows(x, stride, first);
    // Beside each other, where one index finds them all.
    struct {
      float scale[kBlocks];
      Sums sums;
    } of_row[M];
    const std::int8_t* q[M];
    F sum[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      __builtin_memcpy(of_row[i].scale, rows.step[i]->scale, sizeof of_row[i].scale);
      add_up(*rows.step[i], of_row[i].sums);
      q[i] = rows.q[i];
      sum[i] = V::load(acc[i]);
    }
    for (int b = 0; b < count / 32; ++b) {
#pragma GCC unroll 2
      for (int run = 0; run < W::kRuns; ++run) {
        I total[M];
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          total[i] = kExcess<V, W> == 0 ? V::izero() : V::broadcast(of_row[i].sums.start[run][b]);
        }
        const int column = 4 * W::kQuads * run;
        if constexpr (kWideSums<V>) {
          V::template sum_bytes<M, W::kQuads>([&](int v) { return quads(b, run, 0, v); }, q, column, total);
        } else {
          dot_run<V, W>(quads, b, run, kOne, q, column, total);
        }
        const F d = V::load(scratch.d[b * W::kRuns + run]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const F scale = V::mul(d, V::broadcast(of_row[i].scale[b]));
          sum[i] = V::fma(V::to_float(total[i]), scale, sum[i]);
        }
      }
      if constexpr (W::kHasMinimum) {
        const F m = V::load(scratch.m[b]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) sum[i] = V::fma(m, V::broadcast(of_row[i].sums.block[b]), sum[i]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) q[i] = forget(q[i] + 32);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }
};

}  // namespace
}  // namespace trivet

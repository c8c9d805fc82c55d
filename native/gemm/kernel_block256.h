// Weights in blocks of 256 times int8 activations with a scale per 256 columns. See kernel.h and
// kernel_block.h.
#pragma once

#include <type_traits>

#include "gemm/kernel_block.h"
#include "gemm/weights_grid.h"
#include "gemm/weights_k.h"

namespace trivet {
namespace {

// A weight is d * scale[run] * w - dmin * min[run], or d * scale[run] * (w - W::kOffset); then `mins` are
// kOffset * scale[run] if the offset is not taken off before.
template <class V, template <class> class Weights>
struct Block256Kernel {
  using W = Weights<V>;
  using F = typename V::F32x16;
  using I = typename V::I32x16;
  static constexpr int kColumns = kStep;
  static constexpr int kStepBytes = sizeof(typename W::Panel);
  static constexpr int kRows = [] {
    if constexpr (kCentered<V, W>) return V::kCenteredRows;
    return V::kByteRows;
  }();
  static constexpr bool kDirect = V::kDirectBytes && W::kDirect;
  static constexpr int kAllRuns = W::kGroups * W::kRuns;
  static_assert(kAllRuns * W::kQuads * 4 == kStep);

  struct alignas(64) Scratch {
    RowPairs scales[kAllRuns], mins[kAllRuns / 2];
    float d[kPanelRows], dmin[kPanelRows];
    std::uint8_t quads[kParts<V, W> * kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int, Scratch& out) {
    W::scales(reinterpret_cast<const typename W::Panel*>(panel)[column / kStep], out);
  }

  template <bool kFetch = true>
  static PackedQuads<V, W, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const typename W::Panel*>(step)};
  }

  template <bool kFetch>
  static UnpackedQuads<V, W> unpack(const PackedQuads<V, W, kFetch>& weights, int, Scratch& scratch) {
    return unpack_quads(weights, W::kGroups, scratch.quads);
  }

  // The weights of a run are `scale` times w, plus `minimum`.
  static void line(const Scratch& scratch, int run, F& scale, F& minimum) {
    const F d = V::load(scratch.d);
    scale = V::mul(d, V::to_float(V::shift_right_signed(V::load_pairs(scratch.scales[run]), 16)));
    const I pair = V::load_pairs(scratch.mins[run / 4 * 2 + run % 2]);
    const I min = V::shift_right_signed(run % 4 < 2 ? V::shift_left(pair, 16) : pair, 16);
    minimum = V::fnma(V::to_float(min), W::kHasMinimum ? V::load(scratch.dmin) : d, V::zero());
  }

  template <int M, class Quads>
  [[gnu::noinline]] static void tile(const Quads& quads, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep256> rows(x, stride, first);
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < W::kGroups; ++group) {
#pragma GCC unroll 8
      for (int i = 0; i < W::kRuns; ++i) {
        const int run = W::kRuns * group + i;
        const int column = 4 * W::kQuads * run;
        if constexpr (kCentered<V, W>) {
          const auto quad = [&](int v) { return quads(group, i, 0, v); };
          V::template dot_centered<M, W::kQuads>(quad, V::load_pairs(scratch.scales[run]), rows.q, column,
                                                 total);
        } else {
          dot_run<V, W, true>(quads, group, i, scratch.scales[run], rows.q, column, total);
        }
      }
    }
    if constexpr (!kCentered<V, W>) {
      V::template dot_words<M, kAllRuns / 2>(scratch.mins, run_sums(*rows.step[0]), stride, offset);
    }
    const F d = V::load(scratch.d), dmin = minimum_scale(scratch);
    for (int i = 0; i < M; ++i) {
      V::store(acc[i], add_scaled(d, dmin, rows.step[i]->scale, total[i], offset[i], V::load(acc[i])));
    }
  }

  static F minimum_scale(const Scratch& scratch) {
    return W::kHasMinimum ? V::load(scratch.dmin) : V::zero();
  }

  static const std::int16_t* run_sums(const ActivationStep256& step) {
    return W::kQuads == 4 ? step.sum16 : step.sum32;
  }

  // sum + the products of a row's integers with the weights' and with `mins`, times their scales.
  static F add_scaled(F d, F dmin, float row_scale, I total, I offset, F sum) {
    const F scale = V::broadcast(row_scale);
    if constexpr (W::kHasMinimum) {
      return V::fnma(V::to_float(offset), V::mul(dmin, scale),
                     V::fma(V::to_float(total), V::mul(d, scale), sum));
    } else {
      return V::fma(V::to_float(V::sub(total, offset)), V::mul(d, scale), sum);
    }
  }
};

}  // namespace
}  // namespace trivet

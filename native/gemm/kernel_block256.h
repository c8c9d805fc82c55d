// Weights in blocks of 256 times int8 activations with a scale per 256 columns. See kernel.h and
// kernel_block.h.
#pragma once

#include <type_traits>

#include "gemm/kernel_block.h"
#include "gemm/weights_digits.h"
#include "gemm/weights_grid.h"
#include "gemm/weights_k.h"

namespace trivet {
namespace {

// Whether all scales of runs are 1.
template <class W>
inline constexpr bool kUniform = requires { requires W::kUniform; };

// A weight is d * scale[run] * w - dmin * min[run], or d * scale[run] * (w - W::kOffset); then `mins` are
// kOffset * scale[run], unless kOffsetInSums. With W::kOffsetColumns it is d * (scale[run] * w - min).
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
    static constexpr bool kTwice = !kWideSums<V>;  // whether `scales` has each twice, or of 32 bits
    RowPairs scales[kAllRuns], mins[kOffsets<W> / 2];
    float d[kPanelRows], dmin[kPanelRows];
    std::uint8_t quads[kParts<V, W> * kStep / 4][64];
  };

  template <class Decoded>
  static void decode_scales(const Panels& w, const std::byte* panel, std::int64_t column, int, Decoded& out) {
    const std::int64_t block = column / kStep;
    W::scales(reinterpret_cast<const typename W::Panel*>(panel + w.layout.steps)[block], out);
    if constexpr (kDApart<typename W::Panel>) {
      const F d = V::load_f16(reinterpret_cast<const std::uint16_t*>(panel) + block * kPanelRows);
      V::store(out.d, V::mul(d, V::broadcast(W::kFactor)));
      if constexpr (W::kHasMinimum) V::store(out.dmin, V::mul(d, V::broadcast(W::kMinimumFactor)));
    }
  }

  template <bool kFetch = true>
  static PackedQuads<V, W, kFetch> weights(const std::byte* step) {
    return {reinterpret_cast<const typename W::Panel*>(step)};
  }

  template <bool kFetch>
  static UnpackedQuads<V, W> unpack(const PackedQuads<V, W, kFetch>& weights, int, Scratch& scratch) {
    return unpack_quads(weights, W::kGroups, scratch.quads);
  }

  // All weights are to be `factor` times what they are.
  static void multiply_scales(Scratch& scratch, float factor) {
    V::store(scratch.d, V::mul(V::load(scratch.d), V::broadcast(factor)));
    if constexpr (W::kHasMinimum) V::store(scratch.dmin, V::mul(V::load(scratch.dmin), V::broadcast(factor)));
  }

  // The weights of a run are `scale` times w + `bias`, plus `minimum`.
  static F scale(const Scratch& scratch, int run) {
    const I scale = V::load_pairs(scratch.scales[run]);
    return V::mul(V::load(scratch.d),
                  V::to_float(Scratch::kTwice ? V::shift_right_signed(scale, 16) : scale));
  }

  static F minimum(const Scratch& scratch, int run, F scale, float bias) {
    if constexpr (W::kHasMinimum) {
      const I pair = V::load_pairs(scratch.mins[run / 4 * 2 + run % 2]);
      const I min = V::shift_right_signed(run % 4 < 2 ? V::shift_left(pair, 16) : pair, 16);
      const F least = bias == 0 ? V::zero() : V::mul(scale, V::broadcast(-bias));
      return V::fnma(V::to_float(min), V::load(scratch.dmin), least);
    } else {
      return V::mul(scale, V::broadcast(-W::kOffset - bias));
    }
  }

  // What the sums of a row's runs begin with: minus the offset of the weights times the sums of x.
  using Starts = std::int32_t[kAllRuns];

  template <int M, class Quads>
  [[gnu::noinline]] static void tile(const Quads& quads, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep256> rows(x, stride, first);
    I total[M], offset[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    if constexpr (kWideSums<V>) {
      add_runs(quads, scratch, rows, total);
    } else {
      for (int group = 0; group < W::kGroups; ++group) {
#pragma GCC unroll 8
        for (int i = 0; i < W::kRuns; ++i) {
          const int run = W::kRuns * group + i;
          dot_run<V, W>(quads, group, i, scratch.scales[run], rows.q, 4 * W::kQuads * run, total);
        }
      }
    }
    if constexpr (!kOffsetInSums<V, W>) {
      const std::int16_t* sums = kOffsets<W> == kAllRuns ? run_sums(*rows.step[0]) : rows.step[0]->sum8;
      V::template dot_words<M, kOffsets<W> / 2>(scratch.mins, sums, stride, offset);
    }
    const F d = V::load(scratch.d), dmin = minimum_scale(scratch);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      V::store(acc[i], add_scaled(d, dmin, rows.step[i]->scale, total[i], offset[i], V::load(acc[i])));
    }
  }

  // total[i] += the scaled sums of all runs, where these have 32 bits.
  template <int M, class Quads>
  [[gnu::always_inline]] static void add_runs(const Quads& quads, const Scratch& scratch,
                                              const ActivationSteps<M, ActivationStep256>& rows,
                                              I (&total)[M]) {
    Starts starts[M];
    for (int i = 0; i < M; ++i) {
      for (int run = 0; run < kAllRuns; ++run) {
        starts[i][run] = -W::kOffset * run_sums(*rows.step[i])[paired(run)];
      }
    }
    const std::int8_t* q[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) q[i] = rows.q[i];
    for (int group = 0; group < W::kGroups; ++group) {
#pragma GCC unroll 16
      for (int r = 0; r < W::kRuns; ++r) {
        const int run = W::kRuns * group + r, column = 4 * W::kQuads * r;
        const auto quad = [&](int v) { return quads(group, r, 0, v); };
        I sum[M];
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          sum[i] = W::kOffset == 0 ? V::izero() : V::broadcast(starts[i][run]);
        }
        V::template sum_bytes<M, W::kQuads>(quad, q, column, sum);
        if constexpr (kUniform<W>) {
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) total[i] = V::add(total[i], sum[i]);
        } else {
          constexpr int kMost = 4 * W::kQuads * kMostMagnitude<W> * 127;
          V::template add_scaled<M, kMost, kSignedScales<W>>(sum, V::load_pairs(scratch.scales[run]), total);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) q[i] = forget(q[i] + 4 * W::kQuads * W::kRuns);
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

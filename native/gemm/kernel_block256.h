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
// kOffset * scale[run], and `exact` below is an integer product of the whole block.
template <class V, template <class> class Weights>
struct Block256Kernel {
  using W = Weights<V>;
  using F = typename V::F32x16;
  using I = typename V::I32x16;
  static constexpr int kColumns = kStep;
  static constexpr int kStepBytes = sizeof(typename W::Panel);
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = V::kDirectBytes && W::kDirect;
  static constexpr int kAllRuns = kStep / 4 / W::kQuads, kGroups = kAllRuns / W::kRuns;

  struct alignas(64) Scratch {
    RowPairs scales[kAllRuns], mins[kAllRuns / 2];
    float d[kPanelRows], dmin[kPanelRows];
    std::uint8_t quads[kParts<V, W> * kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int, Scratch& out) {
    W::scales(reinterpret_cast<const typename W::Panel*>(panel)[column / kStep], out);
  }

  static PackedQuads<V, W> weights(const std::byte* step) {
    return {reinterpret_cast<const typename W::Panel*>(step)};
  }

  static UnpackedQuads<V, W> unpack(const PackedQuads<V, W>& weights, int, Scratch& scratch) {
    return unpack_quads<V, W>(weights, kGroups, scratch.quads);
  }

  template <int M, class Quads>
  [[gnu::noinline]] static void tile(const Quads& quads, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep256> rows(x, stride, first);
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < kGroups; ++group) {
#pragma GCC unroll 8
      for (int i = 0; i < W::kRuns; ++i) {
        const int run = W::kRuns * group + i;
        dot_run<V, W>(quads, group, i, scratch.scales[run], rows.q, 4 * W::kQuads * run, total);
      }
    }
    const std::int16_t* sums = W::kQuads == 4 ? rows.step[0]->sum16 : rows.step[0]->sum32;
    V::template dot_words<M, kAllRuns / 2>(scratch.mins, sums, stride, offset);
    const F d = V::load(scratch.d);
    for (int i = 0; i < M; ++i) {
      const F scale = V::broadcast(rows.step[i]->scale);
      if constexpr (W::kHasMinimum) {
        const F sum = V::fma(V::to_float(total[i]), V::mul(d, scale), V::load(acc[i]));
        V::store(acc[i], V::fnma(V::to_float(offset[i]), V::mul(V::load(scratch.dmin), scale), sum));
      } else {
        const I exact = V::sub(total[i], offset[i]);
        V::store(acc[i], V::fma(V::to_float(exact), V::mul(d, scale), V::load(acc[i])));
      }
    }
  }
};

}  // namespace
}  // namespace trivet

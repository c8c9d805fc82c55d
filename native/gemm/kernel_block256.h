// K-quants times int8 activations with a scale per 256 columns. See kernel.h.
#pragma once

#include "gemm/kernel_block.h"

namespace trivet {
namespace {

// The scales at the end of a step: weights are fetched ahead by what reads them.
template <class V>
void prefetch_range(const void* begin, const void* end) {
  for (auto* p = static_cast<const std::byte*>(begin); p < end; p += 64) V::prefetch(p);
}

// Of four runs whose scales are the bytes of each lane: the pairs (0, 2) and (1, 3).
template <class V, bool kSigned>
void widen_pairs(const std::uint32_t (&bytes)[kPanelRows], RowPairs pairs[2]) {
  const auto lanes = V::load_lanes(bytes);
  V::store_pairs(pairs[0], V::template even_bytes<kSigned>(lanes));
  V::store_pairs(pairs[1], V::template odd_bytes<kSigned>(lanes));
}

// The same runs one by one, each scale twice.
template <class V, bool kSigned>
void widen_runs(const std::uint32_t (&bytes)[kPanelRows], RowPairs runs[4]) {
  const auto lanes = V::load_lanes(bytes);
  const auto even = V::template even_bytes<kSigned>(lanes), odd = V::template odd_bytes<kSigned>(lanes);
  V::store_pairs(runs[0], V::twice_first(even));
  V::store_pairs(runs[1], V::twice_first(odd));
  V::store_pairs(runs[2], V::twice_second(even));
  V::store_pairs(runs[3], V::twice_second(odd));
}

template <class V>
struct Q4_KWeights {
  const PanelQ4_K* step;

  typename V::Bytes operator()(int group, int part, int v) const {
    const std::uint8_t* p = step->quads[group * 8 + v];
    if (part == 0) V::prefetch(p);
    const typename V::Bytes quads = V::load_bytes(p);
    return part == 0 ? V::template bits<0, 15>(quads) : V::template bits<4, 15>(quads);
  }
};

template <class V>
struct KernelQ4_K {
  static constexpr int kColumns = kStep;
  static constexpr int kStepBytes = sizeof(PanelQ4_K);
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = true;
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  struct alignas(64) Scratch {
    RowPairs scales[8], mins[4];
    float d[kPanelRows], dmin[kPanelRows];
    std::uint8_t quads[kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int, Scratch& out) {
    const PanelQ4_K& in = reinterpret_cast<const PanelQ4_K*>(panel)[column / kStep];
    prefetch_range<V>(in.scales, &in + 1);
    for (int g = 0; g < 2; ++g) {
      widen_runs<V, false>(in.scales[g], out.scales + 4 * g);
      widen_pairs<V, false>(in.mins[g], out.mins + 2 * g);
    }
    V::store(out.d, V::load_f16(in.d));
    V::store(out.dmin, V::load_f16(in.dmin));
  }

  static Q4_KWeights<V> weights(const std::byte* step) { return {reinterpret_cast<const PanelQ4_K*>(step)}; }

  static UnpackedQuads<V, 2, 8> unpack(const Q4_KWeights<V>& weights, int, Scratch& scratch) {
    return unpack_quads<V, 2, 8>(weights, 4, scratch.quads);
  }

  template <int M, class Weights>
  [[gnu::noinline]] static void tile(const Weights& weights, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep256> rows(x, stride, first);
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 2 * group + part;
        V::template dot_bytes<M, 8, 8>(run, scratch.scales[r], rows.q, 32 * r, total);
      }
    }
    V::template dot_words<M, 4>(scratch.mins, rows.step[0]->sum32, stride, offset);
    const F d = V::load(scratch.d), dmin = V::load(scratch.dmin);
    for (int i = 0; i < M; ++i) {
      const F scale = V::broadcast(rows.step[i]->scale);
      const F sum = V::fma(V::to_float(total[i]), V::mul(d, scale), V::load(acc[i]));
      V::store(acc[i], V::fnma(V::to_float(offset[i]), V::mul(dmin, scale), sum));
    }
  }
};

template <class V>
struct KernelQ6_K {
  static constexpr int kColumns = kStep;
  static constexpr int kStepBytes = sizeof(PanelQ6_K);
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = false;  // the four weights that share their bits belong to four runs
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  struct alignas(64) Scratch {
    RowPairs scales[16], pairs[8];
    float d[kPanelRows];
    std::uint8_t quads[kStep / 4][64];
  };

  static void decode_scales(const Panels&, const std::byte* panel, std::int64_t column, int, Scratch& out) {
    const PanelQ6_K& in = reinterpret_cast<const PanelQ6_K*>(panel)[column / kStep];
    prefetch_range<V>(in.scales, &in + 1);
    for (int g = 0; g < 4; ++g) {
      widen_runs<V, true>(in.scales[g], out.scales + 4 * g);
      widen_pairs<V, true>(in.scales[g], out.pairs + 2 * g);
    }
    V::store(out.d, V::load_f16(in.d));
  }

  static const PanelQ6_K& weights(const std::byte* step) { return *reinterpret_cast<const PanelQ6_K*>(step); }

  // A group is a half of the block, a part half a quarter of that: see BlockQ6_K. The bits of a weight lie in
  // two places that four weights share each, so that they are unpacked four together.
  static UnpackedQuads<V, 8, 4> unpack(const PanelQ6_K& in, int, Scratch& scratch) {
    for (int half = 0; half < 2; ++half) {
      for (int v = 0; v < 8; ++v) {
        const auto low0 = V::load_bytes(in.low[half * 16 + v]),
                   low1 = V::load_bytes(in.low[half * 16 + 8 + v]);
        const auto high = V::load_bytes(in.high[half * 8 + v]);
        V::prefetch(in.low[half * 16 + v]);
        V::prefetch(in.low[half * 16 + 8 + v]);
        V::prefetch(in.high[half * 8 + v]);
        std::uint8_t (*out)[64] = scratch.quads + half * 32 + v;
        V::store_bytes(out[0], V::either(V::template bits<0, 15>(low0), V::template bits<-4, 48>(high)));
        V::store_bytes(out[8], V::either(V::template bits<0, 15>(low1), V::template bits<-2, 48>(high)));
        V::store_bytes(out[16], V::either(V::template bits<4, 15>(low0), V::template bits<0, 48>(high)));
        V::store_bytes(out[24], V::either(V::template bits<4, 15>(low1), V::template bits<2, 48>(high)));
      }
    }
    return {scratch.quads};
  }

  template <int M, class Weights>
  [[gnu::noinline]] static void tile(const Weights& weights, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const ActivationSteps<M, ActivationStep256> rows(x, stride, first);
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < 2; ++group) {
      for (int part = 0; part < 8; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 8 * group + part;
        V::template dot_bytes<M, 4, 2>(run, scratch.scales[r], rows.q, 16 * r, total);
      }
    }
    V::template dot_words<M, 8>(scratch.pairs, rows.step[0]->sum16, stride, offset);
    const F d = V::load(scratch.d);
    for (int i = 0; i < M; ++i) {
      const F scale = V::mul(d, V::broadcast(rows.step[i]->scale));
      const I exact = V::sub(total[i], V::template shift_left<5>(offset[i]));
      V::store(acc[i], V::fma(V::to_float(exact), scale, V::load(acc[i])));
    }
  }
};

}  // namespace
}  // namespace trivet

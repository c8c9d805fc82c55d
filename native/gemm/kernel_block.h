// Integer weights, in blocks of 32 or 256 columns with their scales, times int8 activations. See kernel.h.
//
// The columns that share a scale are a run of quads of unsigned bytes. V::dot_bytes<M, Quads, Chain> adds
// scale * sum(w * x) over a run to M int32 totals, exactly: the products of `Chain` quads of such weights
// with |x| <= 127 cannot overflow 16 bits, as 4 bits give 8 * 2 * 15 * 127 and 6 bits 2 * 2 * 63 * 127.
// Eight-bit weights are two runs of four bits.
#pragma once

#include "gemm/activations.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

// Two int16 for each row: of a pair of runs, or twice that of one run.
struct alignas(64) RowPairs {
  std::uint32_t lane[kPanelRows];
};

constexpr RowPairs same_for_all(std::uint32_t value) {
  RowPairs pairs = {};
  for (std::uint32_t& lane : pairs.lane) lane = value | value << 16;
  return pairs;
}

// Quads in the order in which a kernel asks for them: part `part` of group `group` is one run.
template <class V, int kParts, int kQuads>
struct UnpackedQuads {
  const std::uint8_t (*quads)[64];

  typename V::Bytes operator()(int group, int part, int v) const {
    return V::load_bytes(quads[(group * kParts + part) * kQuads + v]);
  }
};

template <class V, int kParts, int kQuads, class Weights>
UnpackedQuads<V, kParts, kQuads> unpack_quads(const Weights& weights, int groups, std::uint8_t (*out)[64]) {
  std::uint8_t (*next)[64] = out;
  for (int group = 0; group < groups; ++group) {
#pragma GCC unroll 8
    for (int part = 0; part < kParts; ++part) {
#pragma GCC unroll 8
      for (int v = 0; v < kQuads; ++v) V::store_bytes(*next++, weights(group, part, v));
    }
  }
  return {out};
}

template <class Step>
const Step* activation_step(const std::byte* x, std::size_t stride, int i, std::int64_t column) {
  return reinterpret_cast<const Step*>(x + i * stride) + column / kStep;
}

// ---- Blocks of 32
// ---------------------------------------------------------------------------------------------------

template <class V>
struct Q4_0Weights {
  const PanelQ4_0* blocks;

  typename V::Bytes operator()(int block, int /*part*/, int v) const {
    const std::uint8_t* p = blocks[block].quads[v % 4];
    if (v < 4) V::prefetch(p);
    const typename V::Bytes quads = V::load_bytes(p);
    return v < 4 ? V::template bits<0, 15>(quads) : V::template bits<4, 15>(quads);
  }
};

template <class V>
struct Q8_0Weights {
  const PanelQ8_0* blocks;

  typename V::Bytes operator()(int block, int part, int v) const {
    const std::uint8_t* p = blocks[block].quads[v];
    if (part == 0) V::prefetch(p);
    const typename V::Bytes quads = V::load_bytes(p);
    return part == 0 ? V::template bits<0, 15>(quads) : V::template bits<4, 15>(quads);
  }
};

// kParts runs of four bits a block; 2^kOffsetLog2 is stored as 0.
template <class V, int kParts, int kOffsetLog2>
struct Block32Kernel {
  static constexpr int kColumns = kStep;
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = true;
  static constexpr RowPairs kPartScale[2] = {same_for_all(1), same_for_all(16)};
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  struct alignas(64) Scratch {
    float d[kStep / 32][kPanelRows];
    std::uint8_t quads[kParts * kStep / 4][64];
  };

  static void decode_scales(const Panels& w, const std::byte* panel, std::int64_t column, int count,
                            Scratch& out) {
    const auto* d =
        reinterpret_cast<const std::uint16_t (*)[kPanelRows]>(panel + w.layout.scales) + column / 32;
    for (int b = 0; b < count / 32; ++b) V::store(out.d[b], V::load_f16(d[b]));
  }

  template <class Weights>
  static UnpackedQuads<V, kParts, 8> unpack(const Weights& weights, int count, Scratch& scratch) {
    return unpack_quads<V, kParts, 8>(weights, count / 32, scratch.quads);
  }

  template <int M, class Weights>
  [[gnu::noinline]] static void tile(const Weights& weights, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int count,
                                     float (*acc)[kPanelRows]) {
    const ActivationStep32* steps[M];
    const std::int8_t* q[M];
    F sum[M];
    for (int i = 0; i < M; ++i) {
      steps[i] = activation_step<ActivationStep32>(x, stride, i, first);
      q[i] = steps[i]->q;
      sum[i] = V::load(acc[i]);
    }
    for (int b = 0; b < count / 32; ++b) {
      I total[M];
      for (int i = 0; i < M; ++i) total[i] = V::izero();
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        const auto run = [&](int v) { return weights(b, part, v); };
        V::template dot_bytes<M, 8, 8>(run, kPartScale[part], q, 32 * b, total);
      }
      const F d = V::load(scratch.d[b]);
      for (int i = 0; i < M; ++i) {
        const I shifted = V::template shift_left<kOffsetLog2>(V::broadcast(steps[i]->sum[b]));
        const F scale = V::mul(d, V::broadcast(steps[i]->scale[b]));
        sum[i] = V::fma(V::to_float(V::sub(total[i], shifted)), scale, sum[i]);
      }
    }
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }
};

template <class V>
struct KernelQ4_0 : Block32Kernel<V, 1, 3> {
  static constexpr int kStepBytes = kStep / 32 * sizeof(PanelQ4_0);

  static Q4_0Weights<V> weights(const std::byte* step) { return {reinterpret_cast<const PanelQ4_0*>(step)}; }
};

template <class V>
struct KernelQ8_0 : Block32Kernel<V, 2, 7> {
  static constexpr int kStepBytes = kStep / 32 * sizeof(PanelQ8_0);

  static Q8_0Weights<V> weights(const std::byte* step) { return {reinterpret_cast<const PanelQ8_0*>(step)}; }
};

// ---- Blocks of 256
// --------------------------------------------------------------------------------------------------

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
    const auto* step = activation_step<ActivationStep256>(x, stride, 0, first);
    const std::int8_t* q[M];
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) {
      q[i] = activation_step<ActivationStep256>(x, stride, i, first)->q;
      total[i] = offset[i] = V::izero();
    }
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 2 * group + part;
        V::template dot_bytes<M, 8, 8>(run, scratch.scales[r], q, 32 * r, total);
      }
    }
    V::template dot_words<M, 4>(scratch.mins, step->sum32, stride, offset);
    const F d = V::load(scratch.d), dmin = V::load(scratch.dmin);
    for (int i = 0; i < M; ++i) {
      const F scale = V::broadcast(activation_step<ActivationStep256>(x, stride, i, first)->scale);
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
  static constexpr bool kDirect = false;
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

  // Group: half of the block; part: half of a quarter of it, see BlockQ6_K.
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
    const auto* step = activation_step<ActivationStep256>(x, stride, 0, first);
    const std::int8_t* q[M];
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) {
      q[i] = activation_step<ActivationStep256>(x, stride, i, first)->q;
      total[i] = offset[i] = V::izero();
    }
    for (int group = 0; group < 2; ++group) {
      for (int part = 0; part < 8; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 8 * group + part;
        V::template dot_bytes<M, 4, 2>(run, scratch.scales[r], q, 16 * r, total);
      }
    }
    V::template dot_words<M, 8>(scratch.pairs, step->sum16, stride, offset);
    const F d = V::load(scratch.d);
    for (int i = 0; i < M; ++i) {
      const F scale = V::mul(d, V::broadcast(activation_step<ActivationStep256>(x, stride, i, first)->scale));
      const I exact = V::sub(total[i], V::template shift_left<5>(offset[i]));
      V::store(acc[i], V::fma(V::to_float(exact), scale, V::load(acc[i])));
    }
  }
};

}  // namespace
}  // namespace trivet

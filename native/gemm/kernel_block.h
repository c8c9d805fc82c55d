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
    const typename V::Bytes quads = V::load_bytes(blocks[block].quads[v % 4]);
    return v < 4 ? V::template bits<0, 15>(quads) : V::template bits<4, 15>(quads);
  }
};

template <class V>
struct Q8_0Weights {
  const PanelQ8_0* blocks;

  typename V::Bytes operator()(int block, int part, int v) const {
    const typename V::Bytes quads = V::load_bytes(blocks[block].quads[v]);
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
    F sum[M];
    for (int i = 0; i < M; ++i) {
      steps[i] = activation_step<ActivationStep32>(x, stride, i, first);
      sum[i] = V::load(acc[i]);
    }
    for (int b = 0; b < count / 32; ++b) {
      I total[M];
      for (int i = 0; i < M; ++i) total[i] = V::izero();
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        const auto run = [&](int v) { return weights(b, part, v); };
        V::template dot_bytes<M, 8, 8>(run, kPartScale[part], steps[0]->q + 32 * b, stride, total);
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

// The even or the odd bytes of each lane, widened to 16 bits.
template <bool kSigned>
std::uint32_t widen(std::uint32_t lane, int odd) {
  const std::uint32_t bytes = lane >> 8 * odd & 0x00ff00ff;
  const std::uint32_t negative = bytes & 0x00800080;
  return kSigned ? bytes | ((negative << 9) - (negative << 1)) : bytes;
}

template <bool kSigned>
void widen_pairs(const std::uint32_t (&bytes)[kPanelRows], RowPairs* __restrict pairs) {
  for (int r = 0; r < kPanelRows; ++r) pairs[0].lane[r] = widen<kSigned>(bytes[r], 0);
  for (int r = 0; r < kPanelRows; ++r) pairs[1].lane[r] = widen<kSigned>(bytes[r], 1);
}

template <bool kSigned>
void widen_runs(const std::uint32_t (&bytes)[kPanelRows], RowPairs* __restrict runs) {
  for (int j = 0; j < 2; ++j) {
    for (int r = 0; r < kPanelRows; ++r) {
      const std::uint32_t pair = widen<kSigned>(bytes[r], j);
      runs[j].lane[r] = (pair & 0xffff) | pair << 16;
      runs[j + 2].lane[r] = (pair & 0xffff0000) | pair >> 16;
    }
  }
}

template <class V>
struct Q4_KWeights {
  const PanelQ4_K* step;

  typename V::Bytes operator()(int group, int part, int v) const {
    const typename V::Bytes quads = V::load_bytes(step->quads[group * 8 + v]);
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
    for (int g = 0; g < 2; ++g) {
      widen_runs<false>(in.scales[g], out.scales + 4 * g);
      widen_pairs<false>(in.mins[g], out.mins + 2 * g);
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
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < 4; ++group) {
#pragma GCC unroll 2
      for (int part = 0; part < 2; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 2 * group + part;
        V::template dot_bytes<M, 8, 8>(run, scratch.scales[r], step->q + 32 * r, stride, total);
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
    for (int g = 0; g < 4; ++g) {
      widen_runs<true>(in.scales[g], out.scales + 4 * g);
      widen_pairs<true>(in.scales[g], out.pairs + 2 * g);
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
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::izero();
    for (int group = 0; group < 2; ++group) {
      for (int part = 0; part < 8; ++part) {
        const auto run = [&](int v) { return weights(group, part, v); };
        const int r = 8 * group + part;
        V::template dot_bytes<M, 4, 2>(run, scratch.scales[r], step->q + 16 * r, stride, total);
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

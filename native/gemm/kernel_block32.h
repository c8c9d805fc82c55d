// Q4_0 and Q8_0 weights times int8 activations with a scale per 32 columns. See kernel.h.
#pragma once

#include "gemm/kernel_block.h"

namespace trivet {
namespace {

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

constexpr RowPairs same_for_all(std::uint32_t value) {
  RowPairs pairs = {};
  for (std::uint32_t& lane : pairs.lane) lane = value | value << 16;
  return pairs;
}

// A block is a group of kParts runs of four bits, low bits first. A stored weight is 2^kOffsetLog2 too large.
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
    const ActivationSteps<M, ActivationStep32> rows(x, stride, first);
    F sum[M];
    for (int i = 0; i < M; ++i) sum[i] = V::load(acc[i]);
    for (int b = 0; b < count / 32; ++b) {
      I total[M];
      for (int i = 0; i < M; ++i) total[i] = V::izero();
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        const auto run = [&](int v) { return weights(b, part, v); };
        V::template dot_bytes<M, 8, 8>(run, kPartScale[part], rows.q, 32 * b, total);
      }
      const F d = V::load(scratch.d[b]);
      for (int i = 0; i < M; ++i) {
        const I shifted = V::template shift_left<kOffsetLog2>(V::broadcast(rows.step[i]->sum[b]));
        const F scale = V::mul(d, V::broadcast(rows.step[i]->scale[b]));
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

}  // namespace
}  // namespace trivet

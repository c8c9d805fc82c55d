// What the kernels for integer weights share. See kernel.h.
//
// Weights that share a scale are a run of quads (four columns of each row) of unsigned bytes.
// V::dot_bytes<M, Quads, Chain> adds scale * sum(w * x) over a run to M int32 totals, exactly: the products
// of `Chain` quads of such weights with |x| <= 127 cannot overflow 16 bits, as 4 bits give 8 * 2 * 15 * 127
// and 6 bits 2 * 2 * 63 * 127. Eight-bit weights are two runs of four bits.
#pragma once

#include "gemm/activations.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

// Two int16 for each row: of a pair of runs, or twice that of one run.
struct alignas(64) RowPairs {
  std::uint32_t lane[kPanelRows];
};

// Part `part` of group `group` is one run. All lie in the order in which kernels ask for them.
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

// The steps at `column` of M rows that begin `stride` bytes apart.
template <int M, class Step>
struct ActivationSteps {
  const Step* step[M];
  const std::int8_t* q[M];

  ActivationSteps(const std::byte* x, std::size_t stride, std::int64_t column) {
    for (int i = 0; i < M; ++i) {
      step[i] = reinterpret_cast<const Step*>(x + i * stride) + column / kStep;
      q[i] = step[i]->q;
    }
  }
};

}  // namespace
}  // namespace trivet

// What the kernels for integer weights share. See kernel.h.
//
// Weights are unsigned bytes; those that share a scale are a run of kQuads quads (four columns of each row),
// and kRuns runs are a group. How a format's bytes become quads is said once, by the struct Weights<format>:
//
//   Panel, kBits, kRuns, kQuads        the packed bytes, bits of a weight, runs of a group, quads of a run
//   quad(panel, group, run, v, fetch)  quad v of a run; all but panel and group are constants when compiling.
//                                      With `fetch`, the first quad in a vector fetches ahead
//   unpack(panel, quads)               or this, where decoding shares work across runs: all quads of a step
//
// V::dot_bytes<M, Quads, Bits> adds scale * sum(w * x) over a run to M int32 totals, exactly. Where V's sums
// hold no products of eight bits (V::kWeightBits), such weights are two runs of four bits; where they do,
// V::sum_bytes<M, Quads> adds without a scale.
#pragma once

#include "gemm/activations.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

// Two int16 for each row: of a pair of runs, or twice that of one run.
struct alignas(64) RowPairs {
  std::uint32_t lane[kPanelRows];
};

// `first` and `second` for each row.
constexpr RowPairs same_for_all(int first, int second) {
  RowPairs pairs = {};
  for (std::uint32_t& lane : pairs.lane) {
    lane = static_cast<std::uint16_t>(first) | static_cast<std::uint32_t>(second) << 16;
  }
  return pairs;
}

template <class V, class W>
inline constexpr int kParts = W::kBits > V::kWeightBits ? 2 : 1;

// The quads of a panel, decoded where they are used. Part 0 of eight-bit weights is their low four bits.
template <class V, class W>
struct PackedQuads {
  const typename W::Panel* panel;

  typename V::Bytes operator()(int group, int run, int part, int v) const {
    if constexpr (kParts<V, W> == 1) {
      return W::quad(panel, group, run, v, true);
    } else {
      return V::bits(W::quad(panel, group, run, v, part == 0), 4 * part, 15);
    }
  }
};

// The same, decoded already; they lie in the order in which kernels ask for them.
template <class V, class W>
struct UnpackedQuads {
  const std::uint8_t (*quads)[64];

  typename V::Bytes operator()(int group, int run, int part, int v) const {
    return V::load_bytes(quads[((group * W::kRuns + run) * kParts<V, W> + part) * W::kQuads + v]);
  }
};

template <class V, class W>
UnpackedQuads<V, W> unpack_quads(const PackedQuads<V, W>& packed, int groups, std::uint8_t (*out)[64]) {
  if constexpr (requires { W::unpack(*packed.panel, out); }) {
    W::unpack(*packed.panel, out);
  } else {
    std::uint8_t (*next)[64] = out;
    for (int group = 0; group < groups; ++group) {
#pragma GCC unroll 8
      for (int run = 0; run < W::kRuns; ++run) {
#pragma GCC unroll 2
        for (int part = 0; part < kParts<V, W>; ++part) {
#pragma GCC unroll 8
          for (int v = 0; v < W::kQuads; ++v) V::store_bytes(*next++, packed(group, run, part, v));
        }
      }
    }
  }
  return {out};
}

// total[i] += scale * sum(w * x) over a run at `column` of M rows of int8; with kScaled false, scale is 1.
template <class V, class W, bool kScaled, int M, class Quads>
[[gnu::always_inline]] inline void dot_run(const Quads& quads, int group, int run, const RowPairs& scale,
                                           const std::int8_t* const (&x)[M], int column,
                                           typename V::I32x16 (&total)[M]) {
  if constexpr (kParts<V, W> == 1) {
    const auto quad = [&](int v) { return quads(group, run, 0, v); };
    if constexpr (!kScaled && V::kWeightBits == 8) {
      V::template sum_bytes<M, W::kQuads>(quad, 0, x, column, total);
    } else {
      V::template dot_bytes<M, W::kQuads, W::kBits>(quad, V::load_pairs(scale), x, column, total);
    }
  } else {
    const auto low = [&](int v) { return quads(group, run, 0, v); };
    const auto high = [&](int v) { return quads(group, run, 1, v); };
    V::template dot_bytes<M, W::kQuads, 4>(low, V::load_pairs(scale), x, column, total);
    V::template dot_bytes<M, W::kQuads, 4>(high, V::template mul_words<16>(V::load_pairs(scale)), x, column,
                                           total);
  }
}

// A vector of a panel, and with `fetch` the one that will be needed later.
template <class V>
typename V::Bytes load_quads(const std::uint8_t (&quads)[64], bool fetch) {
  if (fetch) V::prefetch(quads);
  return V::load_bytes(quads);
}

// A step's bytes from `begin` on are fetched ahead by what reads them.
template <class V>
void prefetch_range(const void* begin, const void* end) {
  for (auto* p = static_cast<const std::byte*>(begin); p < end; p += 64) V::prefetch(p);
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

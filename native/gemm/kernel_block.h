// What the kernels for integer weights share. See kernel.h.
//
// Weights are unsigned bytes; those that share a scale are a run of kQuads quads (four columns of each row),
// and kRuns runs are a group. How a format's bytes become quads is said once, by the struct Weights<format>:
//
//   Panel, kGroups                     the packed bytes and how many groups these are
//   kBits, kRuns, kQuads               bits of a weight, runs of a group, quads of a run
//   kMost                              the largest weight, if that is not the largest of so many bits
//   kOffset                            how much larger than what they stand for weights are
//   kOffsetColumns                     if that differs from row to row, of how many columns it is one
//   kSignedScales                      that scales may be negative
//   kFactor, kMinimumFactor            of d, where this lies apart; the latter with minima
//   kOrder                             of the columns of quads, if they do not lie as they come
//   quad(panel, group, run, v)         quad v of a run; all but panel and group are constants when compiling
//   unpack(panel, quads)               or this, where decoding shares work across runs: all quads of a step;
//                                      with kDirectRows quad(), too, for so many rows
//
// Totals of scale * sum(w * x) over runs are int32, and exact. Where V's sums have 32 bits (V::kWeightBits is
// 8), V::sum_bytes<M, Quads> adds the products of a run to M of them and V::add_scaled<M, kMost, kSigned>
// these, times its scale of 32 bits, to totals; no sum's magnitude is above kMost. Where they have 16,
// V::dot_bytes<M, Quads, Bits> does both, weights of eight bits are taken as signed, 128 less, in two parts,
// their magnitudes and themselves, for V::dot_signed<M, Quads>, and V::dot_centered<M, Quads>, where V has
// it, adds scale * sum((w - kCenter) * x) over a run of W::kCentered weights.
#pragma once

#include "gemm/activations.h"
#include "gemm/fetch.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

// Two int16 for each row: of a pair of runs, or twice that of one run; or an int32 of one.
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

template <class V>
inline constexpr bool kWideSums = V::kWeightBits == 8;

template <class V, class W>
inline constexpr int kParts = W::kBits > V::kWeightBits ? 2 : 1;

// The largest weight, and the largest magnitude of what one stands for.
template <class W>
inline constexpr int kMostStored = [] {
  if constexpr (requires { W::kMost; }) return static_cast<int>(W::kMost);
  return (1 << W::kBits) - 1;
}();
template <class W>
inline constexpr int kMostMagnitude =
    W::kOffset > kMostStored<W> - W::kOffset ? W::kOffset : kMostStored<W> - W::kOffset;

// Whether V adds the products of W's weights, which are kCenter too large, in 16 bits over a whole run.
template <class V, class W>
inline constexpr bool kCentered = requires {
  V::kCenteredRows;
  requires W::kCentered;
};

// Whether W's scales may be negative.
template <class W>
inline constexpr bool kSignedScales = requires { requires W::kSignedScales; };

// How the columns of W's quads lie.
template <class W>
inline constexpr ColumnOrder kOrder = [] {
  if constexpr (requires { W::kOrder; }) return W::kOrder;
  return ColumnOrder::natural;
}();

// How much larger than what they stand for the weights are that V multiplies.
template <class V, class W>
inline constexpr int kExcess = W::kOffset - (kParts<V, W> == 2 ? 128 : 0);

// How many offsets a step has: one for each run, if W does not say of how many columns.
template <class W>
inline constexpr int kOffsets = [] {
  if constexpr (requires { W::kOffsetColumns; }) return kStep / W::kOffsetColumns;
  return W::kGroups * W::kRuns;
}();

// Whether the sums of a run begin with what takes the offset off, so that `mins` are not needed for that.
template <class V, class W>
inline constexpr bool kOffsetInSums =
    !W::kHasMinimum && kOffsets<W> == W::kGroups * W::kRuns && (kWideSums<V> || kCentered<V, W>);

// The quads of a panel, decoded where they are used; with kFetch, that fetches ahead.
template <class V, class W, bool kFetch = true>
struct PackedQuads {
  static constexpr int kGroupBytes = sizeof(typename W::Panel) / W::kGroups;

  const typename W::Panel* panel;

  typename V::Bytes operator()(int group, int run, int part, int v) const {
    if (kFetch && part == 0) {
      fetch_part<V, kGroupBytes, W::kRuns * W::kQuads>(
          reinterpret_cast<const std::byte*>(panel) + group * kGroupBytes, run * W::kQuads + v);
    }
    const typename V::Bytes quad = W::quad(panel, group, run, v);
    if constexpr (kParts<V, W> == 1) {
      return quad;
    } else {
      return V::signed_part(quad, part);
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

template <class V, class W, bool kFetch>
UnpackedQuads<V, W> unpack_quads(const PackedQuads<V, W, kFetch>& packed, int groups,
                                 std::uint8_t (*out)[64]) {
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

// total[i] += scale * sum(w * x) over a run at `column` of M rows of int8, for V without kWideSums.
template <class V, class W, int M, class Quads>
[[gnu::always_inline]] inline void dot_run(const Quads& quads, int group, int run, const RowPairs& scale,
                                           const std::int8_t* const (&x)[M], int column,
                                           typename V::I32x16 (&total)[M]) {
  if constexpr (kCentered<V, W>) {
    const auto quad = [&](int v) { return quads(group, run, 0, v); };
    V::template dot_centered<M, W::kQuads>(quad, V::load_pairs(scale), x, column, total);
  } else if constexpr (kParts<V, W> == 1) {
    const auto quad = [&](int v) { return quads(group, run, 0, v); };
    V::template dot_bytes<M, W::kQuads, W::kBits>(quad, V::load_pairs(scale), x, column, total);
  } else {
    const auto magnitude = [&](int v) { return quads(group, run, 0, v); };
    const auto weight = [&](int v) { return quads(group, run, 1, v); };
    V::template dot_signed<M, W::kQuads>(magnitude, weight, V::load_pairs(scale), x, column, total);
  }
}

// p, which the compiler takes for a new pointer. It would keep what it loaded from there, and in loops an
// address for each constant that is added: there are not so many registers.
template <class T>
[[gnu::always_inline]] inline T* forget(T* p) {
  asm volatile("" : "+r"(p));
  return p;
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

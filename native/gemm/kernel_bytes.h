// Products of rows of int8, with a scale for 256 columns, with weights that are rounded to int8, too, where
// the numerics are fast: a step's products are scaled but once. See kernel.h.
#pragma once

#include "gemm/kernel.h"
#include "gemm/rounded_bytes.h"

namespace trivet {
namespace {

// `Few` is a Block32Kernel or a Block256Kernel, whose weights these are.
template <class V, class Few>
struct BytesKernel {
  static constexpr int kExcess = 128;  // products take weights without a sign
  static constexpr int kColumns = kStep, kStepBytes = Few::kStepBytes;
  static constexpr int kRows = V::kByteRows;
  static constexpr bool kDirect = false;
  // To round a step takes as long as some 20 rows of products with it.
  static constexpr int kChunkRows = 256;

  struct alignas(64) Scratch : Few::Scratch {
    float unit[kPanelRows];
  };

  struct Bytes {
    const std::uint8_t (*quads)[64];
  };

  static void decode_scales(const Panels& w, const std::byte* panel, std::int64_t column, int count,
                            Scratch& out) {
    Few::decode_scales(w, panel, column, count, out);
  }

  template <bool kFetch>
  static auto weights(const std::byte* step) {
    return Few::template weights<kFetch>(step);
  }

  template <class Weights>
  static Bytes unpack(const Weights& weights, int count, Scratch& scratch) {
    RoundedBytes<V, Few, kExcess>::round_step(weights, count, scratch, scratch.unit, scratch.quads, [] {});
    return {scratch.quads};
  }

  template <int M>
  [[gnu::noinline]] static void tile(const Bytes& weights, const Scratch& scratch, const std::byte* x,
                                     std::size_t stride, std::int64_t first, int, float (*acc)[kPanelRows]) {
    const std::int8_t* q[M];
    const ByteStep* steps[M];
    typename V::I32x16 total[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      q[i] = reinterpret_cast<const std::int8_t*>(x + i * stride + first);
      steps[i] = &byte_step(x + (i + 1) * stride, first / kStep);
      total[i] = V::broadcast(-kExcess * steps[i]->sum);
    }
    constexpr int kQuads = 8;
    for (int group = 0; group < kStep / 4; group += kQuads) {
      const auto quad = [&](int v) { return V::load_bytes(weights.quads[group + v]); };
      V::template sum_bytes<M, kQuads>(quad, q, 0, total);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) q[i] = forget(q[i] + 4 * kQuads);
    }
    const auto unit = V::load(scratch.unit);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const auto scale = V::mul(unit, V::broadcast(steps[i]->scale));
      V::store(acc[i], V::fma(V::to_float(total[i]), scale, V::load(acc[i])));
    }
  }
};

}  // namespace
}  // namespace trivet

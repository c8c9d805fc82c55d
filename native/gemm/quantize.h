// Float rows to int8 rows. See kernel.h.
#pragma once

#include <array>

#include "formats/half.h"
#include "gemm/activations.h"

namespace trivet {
namespace {

template <class V>
struct Quantize {
  static constexpr bool kByVectors =
      requires(std::int8_t* q) { V::template round_bytes<16>(nullptr, 0.0f, q); };

  // Rounds N values to q = nearest(x * 127 / max|x|), ties to even; returns the scale. A block whose largest
  // magnitude is below 2^-100 counts as zero: the reciprocal would overflow.
  template <int N>
  static float block(const float* x, std::int8_t* q) {
    std::int32_t peak_bits = 0;
    if constexpr (kByVectors) {
      peak_bits = V::template peak_bits<N>(x);
    } else {
      for (int i = 0; i < N; ++i) {
        std::int32_t bits;
        __builtin_memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        peak_bits = bits > peak_bits ? bits : peak_bits;
      }
    }
    const float peak = float_from_bits(peak_bits);
    const bool finite = peak_bits < 0x7f800000;
    if (!finite || peak < 0x1p-100f) {
      for (int i = 0; i < N; ++i) q[i] = 0;
      return finite ? 0.0f : __builtin_nanf("");
    }
    const float inverse = 127.0f / peak;
    if constexpr (kByVectors) {
      V::template round_bytes<N>(x, inverse, q);
      return peak / 127.0f;
    }
    for (int i = 0; i < N; ++i) {
      const float shifted = x[i] * inverse + 0x1.8p23f;  // the low mantissa bits are now the rounded integer
      std::int32_t bits;
      __builtin_memcpy(&bits, &shifted, sizeof bits);
      q[i] = static_cast<std::int8_t>(bits);
    }
    return peak / 127.0f;
  }

  // Sums of every 16 columns of a step.
  static void sums(const std::int8_t* q, std::int16_t (&out)[kStep / 16]) {
    for (int i = 0; i < kStep / 16; ++i) {
      if constexpr (kByVectors) {
        if (i % 4 == 0) V::sum_sixteens(q + 16 * i, out + i);
      } else {
        int total = 0;
        for (int k = 0; k < 16; ++k) total += q[16 * i + k];
        out[i] = static_cast<std::int16_t>(total);
      }
    }
  }

  static void q8_32(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep32*>(out);
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      *step = {};
      for (int b = 0; b < kStep / 32 && b * 32 < columns; ++b) {
        step->scale[b] = block<32>(x + 32 * b, step->q + 32 * b);
      }
      std::int16_t halves[kStep / 16];
      sums(step->q, halves);
      for (int i = 0; i < kStep / 16; ++i) step->sum16[i % 2][i / 2] = halves[i];
    }
  }

  template <ColumnOrder kOrder>
  static void q8_256(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep256*>(out);
    float last[kStep];
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      *step = {};
      if (columns < kStep) {
        for (int i = 0; i < kStep; ++i) last[i] = i < columns ? x[i] : 0.0f;
        x = last;
      }
      step->scale = block<kStep>(x, step->q);
      if constexpr (requires { V::kCenteredRows; }) {
        for (int i = 0; i < kStep / 16; ++i) V::store_center(step->q + 16 * i, step->center16[i]);
      }
      std::int16_t halves[kStep / 16];
      sums(step->q, halves);
      for (int i = 0; i < kStep / 16; ++i) step->sum16[paired(i)] = halves[i];
      for (int i = 0; i < kStep / 32; ++i) {
        step->sum32[paired(i)] = static_cast<std::int16_t>(halves[2 * i] + halves[2 * i + 1]);
      }
      if constexpr (kOrder != ColumnOrder::natural) V::template order_columns<kOrder>(step->q);
    }
  }

  static constexpr std::array<void (*)(const float*, std::int64_t, std::byte*), kColumnOrders> kOfOrders = {
      q8_256<ColumnOrder::natural>, q8_256<ColumnOrder::by16>, q8_256<ColumnOrder::by32>};
};

// Nearest, ties to even; NaN stays NaN.
[[maybe_unused]] void round_bf16(const float* x, std::int64_t columns, std::byte* out) {
  auto* rounded = reinterpret_cast<std::uint16_t*>(out);
  for (std::int64_t i = 0; i < columns; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    const std::uint32_t nearest = bits + 0x7fffu + (bits >> 16 & 1u);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    rounded[i] = static_cast<std::uint16_t>((nan ? bits | 0x400000u : nearest) >> 16);
  }
}

}  // namespace
}  // namespace trivet

// Float rows to int8 rows. See kernel.h.
#pragma once

#include <array>

#include "formats/half.h"
#include "gemm/activations.h"

namespace trivet {
namespace {

// How the 256 floats of a step are rounded, one by one. V::Rounding does the same with vectors.
struct ScalarRounding {
  // The bits of the largest magnitude of every 32. Those of a value that is not finite are more than any
  // other's.
  static void peaks(const float* x, std::int32_t (&bits)[kStep / 32]) {
    for (std::int32_t& peak : bits) {
      peak = 0;
      for (int i = 0; i < 32; ++i, ++x) {
        std::int32_t magnitude;
        __builtin_memcpy(&magnitude, x, sizeof magnitude);
        magnitude &= 0x7fffffff;
        peak = magnitude > peak ? magnitude : peak;
      }
    }
  }

  // q = nearest(x * factor), with a factor for every 32; ties to even. No magnitude is above 127.
  static void round(const float* x, const float (&factor)[kStep / 32], std::int8_t* q) {
    for (int i = 0; i < kStep; ++i) {
      const float shifted = x[i] * factor[i / 32] + 0x1.8p23f;  // has the integer in its lowest bits
      std::int32_t bits;
      __builtin_memcpy(&bits, &shifted, sizeof bits);
      q[i] = static_cast<std::int8_t>(bits);
    }
  }

  // Sums of the first and of the last 16 of every 32.
  static void sum_sixteens(const std::int8_t* q, std::int16_t (&sums)[2][kStep / 32]) {
    for (int i = 0; i < kStep / 16; ++i) {
      int total = 0;
      for (int k = 0; k < 16; ++k) total += q[16 * i + k];
      sums[i % 2][i / 2] = static_cast<std::int16_t>(total);
    }
  }

  static void sum_eights(const std::int8_t* q, std::int16_t (&sums)[kStep / 8]) {
    for (std::int16_t& sum : sums) {
      int total = 0;
      for (int k = 0; k < 8; ++k) total += *q++;
      sum = static_cast<std::int16_t>(total);
    }
  }
};

template <class V>
struct Quantize {
  using Rounding = typename V::Rounding;
  static constexpr int kBlocks = kStep / 32;

  struct Scales {
    float scale[kBlocks], factor[kBlocks];
  };

  // Of q = nearest(x * 127 / peak). A block whose peak is below 2^-100 counts as zero: the reciprocal would
  // overflow. One that is not finite has a scale of NaN.
  static void scales_of(const std::int32_t (&peaks)[kBlocks], Scales& out) {
    for (int b = 0; b < kBlocks; ++b) {
      const float peak = float_from_bits(peaks[b]);
      const bool counts = peaks[b] < 0x7f800000 && peak >= 0x1p-100f;
      out.scale[b] = counts ? peak / 127.0f : peaks[b] < 0x7f800000 ? 0.0f : __builtin_nanf("");
      out.factor[b] = counts ? 127.0f / peak : 0.0f;
    }
  }

  // The step at x with `columns` left of a row, in `memory` if these are not all of it.
  static const float* whole_step(const float* x, std::int64_t columns, float (&memory)[kStep]) {
    if (columns >= kStep) return x;
    for (int i = 0; i < kStep; ++i) memory[i] = i < columns ? x[i] : 0.0f;
    return memory;
  }

  // What rounds to a number though it is none.
  static void clear(std::int8_t* q, int count) {
    for (int i = 0; i < count; ++i) q[i] = 0;
  }

  static void q8_32(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep32*>(out);
    alignas(64) float last[kStep];
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      const float* values = whole_step(x, columns, last);
      std::int32_t peaks[kBlocks];
      Rounding::peaks(values, peaks);
      Scales scales;
      scales_of(peaks, scales);
      Rounding::round(values, scales.factor, step->q);
      for (int b = 0; b < kBlocks; ++b) {
        step->scale[b] = scales.scale[b];
        if (peaks[b] >= 0x7f800000) clear(step->q + 32 * b, 32);
      }
      Rounding::sum_sixteens(step->q, step->sum16);
    }
  }

  // The q of a step; returns its scale.
  static float round_256(const float* x, std::int64_t columns, std::int8_t* q) {
    alignas(64) float last[kStep];
    const float* values = whole_step(x, columns, last);
    std::int32_t peaks[kBlocks], peak = 0;
    Rounding::peaks(values, peaks);
    for (const std::int32_t of_block : peaks) peak = of_block > peak ? of_block : peak;
    for (std::int32_t& of_block : peaks) of_block = peak;
    Scales scales;
    scales_of(peaks, scales);
    Rounding::round(values, scales.factor, q);
    if (peak >= 0x7f800000) clear(q, kStep);
    return scales.scale[0];
  }

  template <ColumnOrder kOrder>
  static void q8_256(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep256*>(out);
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      step->scale = round_256(x, columns, step->q);
      if constexpr (requires { V::kCenteredRows; }) {
        for (int i = 0; i < kStep / 16; ++i) V::store_center(step->q + 16 * i, step->center16[i]);
      }
      std::int16_t sums[kStep / 8];
      Rounding::sum_eights(step->q, sums);
      for (int i = 0; i < kStep / 8; ++i) step->sum8[paired_eight(i)] = sums[i];
      for (int i = 0; i < kBlocks; ++i) {
        const std::int16_t* eights = sums + 4 * i;
        const int first = eights[0] + eights[1], last = eights[2] + eights[3];
        step->sum16[paired(2 * i)] = static_cast<std::int16_t>(first);
        step->sum16[paired(2 * i + 1)] = static_cast<std::int16_t>(last);
        step->sum32[paired(i)] = static_cast<std::int16_t>(first + last);
      }
      if constexpr (kOrder != ColumnOrder::natural) V::template order_columns<kOrder>(step->q);
    }
  }

  // A step for products with weights rounded to int8.
  static void q8_256_fast(const float* x, std::int64_t columns, std::int8_t* q, ByteStep& step) {
    step.scale = round_256(x, columns, q);
    std::int16_t sums[2][kBlocks];
    Rounding::sum_sixteens(q, sums);
    step.sum = 0;
    for (int i = 0; i < kBlocks; ++i) step.sum += sums[0][i] + sums[1][i];
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

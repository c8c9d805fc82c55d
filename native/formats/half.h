// Exact conversions of small floats to float32. Internal linkage on purpose: sources compiled for different
// instruction sets include this, and the linker must not mix their copies.
#pragma once

#include <cstdint>
#include <cstring>

namespace trivet {
namespace {

[[maybe_unused]] inline float float_from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

[[maybe_unused]] inline float float_from_bf16(std::uint16_t half) {
  return float_from_bits(static_cast<std::uint32_t>(half) << 16);
}

// Branch-free, so that loops over it vectorise: subnormals come out of a subtraction of two normal numbers.
// A signalling NaN becomes quiet, as the processors' own conversions make it.
[[maybe_unused]] inline float float_from_f16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t shifted = magnitude << 13;
  const std::uint32_t normal = shifted + ((127u - 15u) << 23);
  const std::uint32_t nan = magnitude > 0x7c00u ? 0x00400000u : 0u;
  const std::uint32_t special = (shifted | 0x7f800000u) | nan;
  const float tiny = float_from_bits(shifted + (113u << 23)) - float_from_bits(113u << 23);
  std::uint32_t tiny_bits;
  std::memcpy(&tiny_bits, &tiny, sizeof tiny_bits);
  const std::uint32_t finite = magnitude < 0x0400u ? tiny_bits : normal;
  return float_from_bits(sign | (magnitude >= 0x7c00u ? special : finite));
}

// 2^(exponent - 128), also of the NaN 0xff, as in ggml.
[[maybe_unused]] inline float float_from_e8m0(std::uint8_t exponent) {
  return float_from_bits(exponent < 2 ? 0x00200000u << exponent : (exponent - 1u) << 23);
}

// Half of an unsigned float of 4 exponent (bias 7) and 3 mantissa bits; 0x7f, a NaN, is 0 as in
// ggml; the top bit is not looked at.
[[maybe_unused]] inline float float_from_ue4m3(std::uint8_t byte) {
  const std::uint32_t exponent = byte >> 3 & 15, mantissa = byte & 7;
  if (byte == 0x7f) return 0.0f;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  return float_from_bits((exponent + 119u) << 23 | mantissa << 20);
}

}  // namespace
}  // namespace trivet

// The intrinsics of AVX-512 F, BW, DQ, VL, VNNI, BF16 and VBMI, and of GFNI.
//
// With TRIVET_EMULATE (see CMakeLists.txt) SIMDe executes them on a processor that has only AVX2, and what
// SIMDe lacks is here.
#pragma once

#if !defined(TRIVET_EMULATE)
#include <immintrin.h>
#else

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/gfni.h>

#include <cmath>
#include <cstdint>

namespace trivet {
namespace {

using Int32x16 = std::int32_t __attribute__((vector_size(64)));
using Float32x16 = float __attribute__((vector_size(64)));

[[maybe_unused]] inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  return (__m512) __builtin_convertvector((Int32x16)a, Float32x16);
}
[[maybe_unused]] inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  using Int8x16 = signed char __attribute__((vector_size(16)));
  return (__m512i) __builtin_convertvector((Int8x16)a, Int32x16);
}
[[maybe_unused]] inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  using Uint16x16 = std::uint16_t __attribute__((vector_size(32)));
  return (__m512i) __builtin_convertvector((Uint16x16)a, Int32x16);
}
[[maybe_unused]] inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  using Int16x16 = std::int16_t __attribute__((vector_size(32)));
  return (__m256i) __builtin_convertvector((Int32x16)a, Int16x16);
}
[[maybe_unused]] inline __m512i _mm512_cvtps_epi32(__m512 a) {
  float values[16];
  std::int32_t nearest[16];
  _mm512_storeu_ps(values, a);
  for (int i = 0; i < 16; i += 8) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(nearest + i),
                        _mm256_cvtps_epi32(_mm256_loadu_ps(values + i)));
  }
  return _mm512_loadu_si512(nearest);
}
[[maybe_unused]] inline __m512i _mm512_srai_epi32(__m512i a, int bits) {
  return (__m512i)((Int32x16)a >> bits);
}
using Bfloat16x32 = std::uint16_t __attribute__((vector_size(64)));
#define __m512bh Bfloat16x32
[[maybe_unused]] inline __m512 _mm512_dpbf16_ps(__m512 sum, Bfloat16x32 a, Bfloat16x32 b) {
  const auto part = [](Bfloat16x32 pairs, int shift) {
    return (Float32x16)((Int32x16)pairs << shift & static_cast<std::int32_t>(0xffff0000));
  };
  return (__m512)((Float32x16)sum + part(a, 0) * part(b, 0) + part(a, 16) * part(b, 16));
}
[[maybe_unused]] inline __m512 _mm512_cvtph_ps(__m256i a) {
  float values[16];
  _mm256_storeu_ps(values, _mm256_cvtph_ps(_mm256_castsi256_si128(a)));
  _mm256_storeu_ps(values + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)));
  return _mm512_loadu_ps(values);
}
[[maybe_unused]] inline __m256i _mm512_cvtps_ph(__m512 a, int) {
  float values[16];
  _mm512_storeu_ps(values, a);
  const __m128i low = _mm256_cvtps_ph(_mm256_loadu_ps(values), 0),
                high = _mm256_cvtps_ph(_mm256_loadu_ps(values + 8), 0);
  return _mm256_set_m128i(high, low);
}
[[maybe_unused]] inline __m512i _mm512_i32gather_epi32(__m512i index, const void* base, int) {
  Int32x16 result;
  for (int i = 0; i < 16; ++i) result[i] = static_cast<const std::int32_t*>(base)[((Int32x16)index)[i]];
  return (__m512i)result;
}
[[maybe_unused]] inline __m512i _mm512_i32gather_epi64(__m256i index, const void* base, int) {
  std::int32_t at[8];
  std::int64_t result[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), index);
  for (int i = 0; i < 8; ++i) result[i] = static_cast<const std::int64_t*>(base)[at[i]];
  return _mm512_loadu_si512(result);
}
// What of a is above the integer below it.
[[maybe_unused]] inline __m512 _mm512_reduce_ps(__m512 a, int) {
  Float32x16 result;
  for (int i = 0; i < 16; ++i) {
    const float x = ((Float32x16)a)[i];
    result[i] = std::isinf(x) ? 0.0f : x - std::floor(x);
  }
  return (__m512)result;
}
// Subnormal results count as zero.
[[maybe_unused]] inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  Float32x16 result;
  for (int i = 0; i < 16; ++i) {
    const float x = ((Float32x16)a)[i], power = std::floor(((Float32x16)b)[i]);
    const float scaled =
        power == power ? std::ldexp(x, power < -999.0f ? -999 : static_cast<int>(power)) : power;
    result[i] = std::fabs(scaled) < 0x1p-126f ? 0.0f : scaled;
  }
  return (__m512)result;
}

}  // namespace
}  // namespace trivet

#endif

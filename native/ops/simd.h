// Vectors of floats, the element types of the KV cache and the elementary functions.
//
// Compiled once for each instruction set, with TRIVET_LANES lanes (see CMakeLists.txt), so everything here
// has internal linkage: the linker must not mix copies. Every function treats its lanes alike, so a value's
// result does not depend on its place in a row; what is left at the end of a row goes through the same code,
// padded with zeros.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats/half.h"
#include "unrolled.h"

#ifndef TRIVET_LANES
#define TRIVET_LANES 8
#endif
#if TRIVET_LANES == 16
#include "avx512.h"
#elif defined(__AVX2__)
#include <immintrin.h>
#endif

namespace trivet {
namespace {

constexpr int kLanes = TRIVET_LANES;
static_assert(kLanes == 8 || kLanes == 16);

using Vec = float __attribute__((vector_size(4 * kLanes)));
using IntVec = std::int32_t __attribute__((vector_size(4 * kLanes)));
using UintVec = std::uint32_t __attribute__((vector_size(4 * kLanes)));
using HalfVec = std::uint16_t __attribute__((vector_size(2 * kLanes)));

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

TRIVET_INLINE Vec broadcast(float x) { return x - Vec{}; }

// Lane i holds i.
TRIVET_INLINE IntVec lane_numbers() {
  IntVec v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// Lane i comes from lane i ^ kDistance.
template <int kDistance>
TRIVET_INLINE Vec exchange(Vec v) {
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, (I ^ kDistance)...);
  }(std::make_index_sequence<kLanes>());
}

TRIVET_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

TRIVET_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// p, from which the compiler loads anew what it loaded before: where sums fill the registers, keeping it
// would push one of them out.
TRIVET_INLINE const float* reloaded(const float* p) {
#if defined(__x86_64__)
  asm volatile("" : "+r"(p));
#endif
  return p;
}

// a * b + c, rounded once where the instruction set can.
TRIVET_INLINE Vec madd(Vec a, Vec b, Vec c) {
#if TRIVET_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// b where either is NaN.
TRIVET_INLINE Vec max(Vec a, Vec b) {
#if TRIVET_LANES == 16
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

TRIVET_INLINE Vec min(Vec a, Vec b) {
#if TRIVET_LANES == 16
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

// The bits of each.
TRIVET_INLINE UintVec widened(const bf16* p) {
#if TRIVET_LANES == 16  // GCC converts by halves otherwise
  return reinterpret_cast<UintVec>(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<UintVec>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  HalfVec half;
  std::memcpy(&half, p, sizeof half);
  return __builtin_convertvector(half, UintVec);
#endif
}

TRIVET_INLINE Vec load(const bf16* p) { return reinterpret_cast<Vec>(widened(p) << 16); }

TRIVET_INLINE Vec load(const f16* p) {
#if TRIVET_LANES == 16
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = float_from_f16(p[i].bits);
  return v;
#endif
}

TRIVET_INLINE Vec load(const std::int8_t* p) {
#if TRIVET_LANES == 16
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = p[i];
  return v;
#endif
}

// Nearest, ties to even; NaN stays NaN.
TRIVET_INLINE void store(bf16* p, Vec x) {
  const UintVec bits = reinterpret_cast<UintVec>(x);
  const UintVec rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const HalfVec halves = __builtin_convertvector(x == x ? rounded : bits >> 16 | 0x40u, HalfVec);
  std::memcpy(p, &halves, sizeof halves);
}

TRIVET_INLINE void store(f16* p, float x) {
#if defined(__F16C__)
  p->bits = _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  } else {  // adding 1/2 leaves a subnormal half's integer in the low bits, rounded
    const float shifted = float_from_bits(magnitude) + 0.5f;
    std::memcpy(&half, &shifted, sizeof half);
    half -= 0x3f000000u;
  }
  p->bits = static_cast<std::uint16_t>(sign | half);
#endif
}

TRIVET_INLINE void store(f16* p, Vec x) {
#if TRIVET_LANES == 16
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) store(p + i, x[i]);
#endif
}

// Sums and maxima over the lanes, in one fixed order.
TRIVET_INLINE float sum(Vec v) {
  if constexpr (kLanes == 16) v += exchange<8>(v);
  v += exchange<4>(v);
  v += exchange<2>(v);
  return (v + exchange<1>(v))[0];
}

TRIVET_INLINE float max(Vec v) {
  if constexpr (kLanes == 16) v = max(v, exchange<8>(v));
  v = max(v, exchange<4>(v));
  v = max(v, exchange<2>(v));
  return max(v, exchange<1>(v))[0];
}

// Cephes' polynomial for e^x (expf.c), |x| <= ln 2 / 2.
TRIVET_INLINE Vec exp_polynomial(Vec x) {
  Vec p = madd(broadcast(1.9875691500e-4f), x, broadcast(1.3981999507e-3f));
  p = madd(p, x, broadcast(8.3334519073e-3f));
  p = madd(p, x, broadcast(4.1665795894e-2f));
  p = madd(p, x, broadcast(1.6666665459e-1f));
  p = madd(p, x, broadcast(5.0000001201e-1f));
  return madd(p, x * x, x) + 1.0f;
}

// e^x, within 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2. 0 below the range of normal numbers, infinity above
// it.
TRIVET_INLINE Vec exp(Vec x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Vec clamped = min(max(broadcast(-88.0f), x), broadcast(89.0f));
  const Vec shifted = madd(clamped, broadcast(1.44269504088896341f), broadcast(kRound));
  const Vec n = shifted - kRound;
  const Vec r = madd(n, broadcast(2.12194440e-4f), madd(n, broadcast(-0.693359375f), clamped));
  const IntVec power = (reinterpret_cast<IntVec>(shifted) - 0x4b400000) << 23;
  const Vec scaled = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(exp_polynomial(r)) + power);
  const Vec bounded = x > 88.7228f ? broadcast(__builtin_inff()) : scaled;
  const Vec result = x < -87.33f ? broadcast(0.0f) : bounded;
  return x == x ? result : x;
}

#if TRIVET_LANES == 16

// x less the integer below it, and p times 2 to the power of that: 0 below the range of normal numbers, if
// subnormals count as zero.
TRIVET_INLINE Vec fraction(Vec x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
TRIVET_INLINE Vec scaled(Vec p, Vec x) { return _mm512_scalef_ps(p, x); }

// 2^x for x <= 0, within 2 ulp; 1 for 0: the polynomial of the least relative error for 2^r, 0 <= r < 1.
TRIVET_INLINE Vec exp2_negative(Vec x) {
  const Vec r = fraction(x);
  Vec p = madd(broadcast(1.86713029e-3f), r, broadcast(9.01702985e-3f));
  p = madd(p, r, broadcast(5.57999134e-2f));
  p = madd(p, r, broadcast(2.40164450e-1f));
  p = madd(p, r, broadcast(6.93151312e-1f));
  return scaled(madd(p, r, broadcast(1.0f)), x);
}

// The same to 13 bits, as what is then rounded to bfloat16 needs.
TRIVET_INLINE Vec exp2_coarse(Vec x) {
  const Vec r = fraction(x);
  Vec p = madd(broadcast(7.70670568e-2f), r, broadcast(2.27644975e-1f));
  p = madd(p, r, broadcast(6.95116790e-1f));
  return scaled(madd(p, r, broadcast(1.0f)), x);
}

#else

// 2^x for x <= 0, within 2 ulp; 1 for 0, and 0 below the range of normal numbers: 2^n times the polynomial of
// the least relative error for 2^r, |r| <= 1/2.
TRIVET_INLINE Vec exp2_negative(Vec x) {
  constexpr float kRound = 12582912.0f + 127.0f;  // leaves n + 127, an exponent's bits, in the low bits
  const Vec clamped = max(broadcast(-127.0f), x);
  const Vec shifted = clamped + kRound;
  const Vec r = clamped - (shifted - kRound);
  Vec p = madd(broadcast(1.32647271e-3f), r, broadcast(9.67151273e-3f));
  p = madd(p, r, broadcast(5.55073374e-2f));
  p = madd(p, r, broadcast(2.40222421e-1f));
  p = madd(p, r, broadcast(6.93146978e-1f));
  p = madd(p, r, broadcast(1.0f));
  return p * reinterpret_cast<Vec>(reinterpret_cast<IntVec>(shifted) << 23);
}

// What rounds to bfloat16 has vectors of 16 lanes.
TRIVET_INLINE Vec exp2_coarse(Vec x) { return exp2_negative(x); }

#endif

// Cephes' tanhf.c: a polynomial near 0, else by exp.
TRIVET_INLINE Vec tanh(Vec x) {
  const Vec square = x * x;
  Vec p = madd(broadcast(-5.70498872745e-3f), square, broadcast(2.06390887954e-2f));
  p = madd(p, square, broadcast(-5.37397155531e-2f));
  p = madd(p, square, broadcast(1.33314422036e-1f));
  p = madd(p, square, broadcast(-3.33332819422e-1f));
  const Vec near = madd(p * square, x, x);
  const Vec far = 1.0f - 2.0f / (exp(x + x) + 1.0f);
  return square < 0.390625f ? near : far;
}

// 1 / (1 + e^-x), within 5 ulp; 0 below -87. Divisions take as long as all the rest: a reciprocal begins with
// what a subtraction of bits gives, within 6 %, and gets as exact by products that are the same on every
// processor.
TRIVET_INLINE Vec logistic(Vec x) {
  constexpr float kRound = 12582912.0f + 127.0f;  // as in exp2_negative
  const Vec clamped = min(broadcast(87.0f), max(broadcast(-87.0f), x));
  const Vec shifted = madd(clamped, broadcast(-1.44269504088896341f), broadcast(kRound));
  const Vec n = shifted - kRound;
  const Vec r = madd(n, broadcast(-2.12194440e-4f), madd(n, broadcast(0.693359375f), clamped));
  // The polynomial of the least relative error for e^-r, |r| <= ln 2 / 2.
  Vec p = madd(broadcast(-8.29030760e-3f), r, broadcast(4.18979339e-2f));
  p = madd(p, r, broadcast(-1.66676357e-1f));
  p = madd(p, r, broadcast(4.99991506e-1f));
  p = madd(p, r, broadcast(-9.99999702e-1f));
  p = madd(p, r, broadcast(1.0f));
  const Vec power = reinterpret_cast<Vec>(reinterpret_cast<IntVec>(shifted) << 23);
  const Vec divisor = madd(p, power, broadcast(1.0f));
  Vec y = reinterpret_cast<Vec>(0x7ef30000 - reinterpret_cast<IntVec>(divisor));
  const Vec e = madd(-divisor, y, broadcast(1.0f));
  y = madd(y, madd(e, e, e), y);
  y = madd(y, madd(-divisor, y, broadcast(1.0f)), y);
  return x < -87.0f ? broadcast(0.0f) : y;
}

TRIVET_INLINE Vec silu(Vec x) { return x * logistic(x); }

// 0.5 x (1 + tanh(u)) = x logistic(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
TRIVET_INLINE Vec gelu_tanh(Vec x) {
  const Vec u = x * madd(x * x, broadcast(0.044715f * 1.5957691216f), broadcast(1.5957691216f));
  return x * logistic(u);
}

// x Phi(x), with the error function of Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7).
TRIVET_INLINE Vec gelu(Vec x) {
  const Vec z = (x < 0.0f ? -x : x) * 0.70710678118f;
  const Vec t = 1.0f / madd(broadcast(0.3275911f), z, broadcast(1.0f));
  Vec p = madd(broadcast(1.061405429f), t, broadcast(-1.453152027f));
  p = madd(p, t, broadcast(1.421413741f));
  p = madd(p, t, broadcast(-0.284496736f));
  p = madd(p, t, broadcast(0.254829592f));
  const Vec tail = 0.5f * p * t * exp(-z * z);  // Phi(-|x|)
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

// The first `count` lanes from memory, zeros after them; all of them when count >= kLanes.
TRIVET_INLINE Vec load(const float* p, std::int64_t count) {
  if (count >= kLanes) return load(p);
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
#else
  float padded[kLanes] = {};
  std::memcpy(padded, p, count * sizeof(float));
  return load(padded);
#endif
}

TRIVET_INLINE void store(float* p, Vec v, std::int64_t count) {
  if (count >= kLanes) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
#else
  std::memcpy(p, &v, count * sizeof(float));
#endif
}

}  // namespace
}  // namespace trivet

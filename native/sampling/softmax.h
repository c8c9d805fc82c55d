// Exponentials and sums over a row of logits, in one fixed order.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace trivet {

// e^x for x <= 0, relative error under 2e-7; 0 below -87. Written so that compilers vectorise loops over it
// (Cody-Waite reduction, polynomial of degree 6; the same operations per lane whatever the vector length).
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const auto exponent = static_cast<std::uint32_t>(std::bit_cast<std::int32_t>(shifted)) << 23;
  const float result = std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + exponent);
  return x < -87.0f ? 0.0f : result;
}

// The largest of x, which holds no NaN. `count` > 0.
inline float max_of(const float* x, std::size_t count) {
  constexpr std::size_t kLanes = 16;
  const std::size_t whole = count - count % kLanes;
  float max[kLanes];
  for (float& m : max) m = x[0];
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) max[j] = max[j] > x[i + j] ? max[j] : x[i + j];
  }
  for (std::size_t i = whole; i < count; ++i) max[0] = max[0] > x[i] ? max[0] : x[i];
  float result = max[0];
  for (float m : max) result = result > m ? result : m;
  return result;
}

// The largest of x; NaN when any value is NaN or infinite. `count` > 0.
inline float finite_max(const float* x, std::size_t count) {
  constexpr std::size_t kLanes = 16;
  float max[kLanes], poison[kLanes] = {};  // v * 0 is 0 for finite values and NaN for others; sums keep a NaN
  for (float& m : max) m = x[0];
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::size_t j = 0; j < kLanes; ++j) {
      max[j] = max[j] > x[i + j] ? max[j] : x[i + j];
      poison[j] += x[i + j] * 0.0f;
    }
  }
  for (; i < count; ++i) {
    max[0] = max[0] > x[i] ? max[0] : x[i];
    poison[0] += x[i] * 0.0f;
  }
  float result = max[0], sum = 0;
  for (float m : max) result = result > m ? result : m;
  for (float v : poison) sum += v;
  return result + sum;
}

// sum of e^(x[i] - max), by eight interleaved partial sums.
inline double sum_exp(const float* x, std::size_t count, float max) {
  constexpr std::size_t kLanes = 8;
  double lanes[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    float e[kLanes];
    for (std::size_t j = 0; j < kLanes; ++j) e[j] = exp_nonpositive(x[i + j] - max);
    for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += e[j];
  }
  for (; i < count; ++i) lanes[i % kLanes] += exp_nonpositive(x[i] - max);
  double sum = 0;
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace trivet

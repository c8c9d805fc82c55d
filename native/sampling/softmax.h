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

// The row operations for one instruction set; included by the sources that compile them.
#pragma once

#include <cmath>

#include "ops/rows.h"
#include "ops/simd.h"

namespace trivet {
namespace {

void rms_norm(const float* x, const float* weight, float eps, std::int64_t width, std::int64_t group,
              float* y) {
  for (std::int64_t begin = 0; begin < width; begin += group) {
    Vec even = {}, odd = {};
    for (std::int64_t i = 0; i < group; i += 2 * kLanes) {
      const Vec a = load(x + begin + i, group - i);
      even = madd(a, a, even);
      if (i + kLanes >= group) break;
      const Vec b = load(x + begin + i + kLanes, group - i - kLanes);
      odd = madd(b, b, odd);
    }
    const float inverse = 1.0f / std::sqrt(sum(even + odd) / static_cast<float>(group) + eps);
    for (std::int64_t i = 0; i < group; i += kLanes) {
      store(y + begin + i, load(x + begin + i, group - i) * inverse * load(weight + i, group - i), group - i);
    }
  }
}

void add(const float* a, const float* b, std::int64_t width, float* y) {
  for (std::int64_t i = 0; i < width; i += kLanes)
    store(y + i, load(a + i, width - i) + load(b + i, width - i), width - i);
}

void add_scaled(const float* x, float factor, std::int64_t width, float* y) {
  for (std::int64_t i = 0; i < width; i += kLanes) {
    store(y + i, madd(load(x + i, width - i), broadcast(factor), load(y + i, width - i)), width - i);
  }
}

void scale(const float* x, float factor, std::int64_t width, float* y) {
  for (std::int64_t i = 0; i < width; i += kLanes) store(y + i, load(x + i, width - i) * factor, width - i);
}

template <Vec (*act)(Vec)>
void gated(const float* gate, const float* up, std::int64_t width, float* y) {
  for (std::int64_t i = 0; i < width; i += kLanes) {
    store(y + i, act(load(gate + i, width - i)) * load(up + i, width - i), width - i);
  }
}

void act_mul(Activation activation, const float* gate, const float* up, std::int64_t width, float* y) {
  switch (activation) {
    case Activation::silu:
      return gated<silu>(gate, up, width, y);
    case Activation::gelu_tanh:
      return gated<gelu_tanh>(gate, up, width, y);
    case Activation::gelu:
      return gated<gelu>(gate, up, width, y);
  }
}

void softcap(const float* x, float factor, float cap, std::int64_t width, float* y) {
  if (cap == 0.0f) return scale(x, factor, width, y);
  for (std::int64_t i = 0; i < width; i += kLanes) {
    store(y + i, tanh(load(x + i, width - i) * factor / cap) * cap, width - i);
  }
}

void softmax(const float* x, std::int64_t width, float* y) {
  float highest = x[0];
  for (std::int64_t i = 1; i < width; ++i) highest = x[i] > highest ? x[i] : highest;
  float total = 0.0f;
  for (std::int64_t i = 0; i < width; i += kLanes) {
    const Vec e = exp(load(x + i, width - i) - highest);
    store(y + i, e, width - i);
    for (std::int64_t j = 0; j < kLanes && i + j < width; ++j) total += e[j];
  }
  scale(y, 1.0f / total, width, y);
}

template <bool kFinite>
float largest(const float* x, std::int64_t width) {
  constexpr int kVectors = 4;
  // v * 0 is 0 for finite values and NaN for others; sums keep a NaN.
  Vec highest[kVectors], poison[kVectors] = {};
  for (Vec& v : highest) v = broadcast(x[0]);
  std::int64_t i = 0;
  for (; i + kVectors * kLanes <= width; i += kVectors * kLanes) {
    for (int j = 0; j < kVectors; ++j) {
      const Vec v = load(x + i + j * kLanes);
      highest[j] = max(v, highest[j]);
      if constexpr (kFinite) poison[j] += v * 0.0f;
    }
  }
  float result = x[0], tail = 0;
  for (; i < width; ++i) {
    result = x[i] > result ? x[i] : result;
    tail += x[i] * 0.0f;
  }
  for (int j = 0; j < kVectors; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) {
      result = highest[j][lane] > result ? highest[j][lane] : result;
      tail += poison[j][lane];
    }
  }
  return kFinite ? result + tail : result;
}

void rope(const float* x, const float* rotary, std::int64_t heads, std::int64_t head_dim, std::int64_t pairs,
          bool interleaved, float* y) {
  const float* cosines = rotary;
  const float* sines = rotary + rotary_width(pairs, interleaved) / 2;
  for (std::int64_t head = 0; head < heads; ++head, x += head_dim, y += head_dim) {
    if (interleaved) {
      for (std::int64_t i = 0, n = 2 * pairs; i < n; i += kLanes) {
        const Vec v = load(x + i, n - i);
        store(y + i, v * load(cosines + i, n - i) + exchange<1>(v) * load(sines + i, n - i), n - i);
      }
    } else {
      for (std::int64_t i = 0, n = pairs; i < n; i += kLanes) {
        const Vec a = load(x + i, n - i), b = load(x + n + i, n - i);
        const Vec c = load(cosines + i, n - i), s = load(sines + i, n - i);
        store(y + i, a * c - b * s, n - i);
        store(y + n + i, b * c + a * s, n - i);
      }
    }
    if (y != x) std::memcpy(y + 2 * pairs, x + 2 * pairs, (head_dim - 2 * pairs) * sizeof(float));
  }
}

constexpr RowKernels kRowKernels = {rms_norm, add,     add_scaled, scale,          act_mul,
                                    softcap,  softmax, rope,       largest<false>, largest<true>};

}  // namespace
}  // namespace trivet

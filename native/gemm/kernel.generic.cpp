// Plain C++ for any processor.
#include <cmath>

#include "gemm/kernel.h"

namespace trivet {
namespace {

struct Generic {
  static constexpr int kFloatRows = 4;
  static constexpr int kByteRows = 4;

  struct F32x16 {
    float lane[16];
  };
  struct I32x16 {
    std::int32_t lane[16];
  };

  static F32x16 zero() { return {}; }
  static F32x16 broadcast(float value) {
    F32x16 v;
    for (float& lane : v.lane) lane = value;
    return v;
  }
  static I32x16 broadcast(std::int32_t value) {
    I32x16 v;
    for (std::int32_t& lane : v.lane) lane = value;
    return v;
  }
  static F32x16 load(const float* p) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = p[i];
    return v;
  }
  static void store(float* p, const F32x16& v) {
    for (int i = 0; i < 16; ++i) p[i] = v.lane[i];
  }
  static F32x16 load_f16(const std::uint16_t* p) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = float_from_f16(p[i]);
    return v;
  }
  static void store_bf16_pair(const std::uint32_t* pairs, float* first, float* second) {
    for (int i = 0; i < 16; ++i) {
      first[i] = float_from_bits(pairs[i] << 16);
      second[i] = float_from_bits(pairs[i] & 0xffff0000u);
    }
  }
  static F32x16 add(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static F32x16 mul(F32x16 a, const F32x16& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  // a * b + c; fused only where the processor does it in one instruction.
  static F32x16 fma(const F32x16& a, const F32x16& b, F32x16 c) {
    for (int i = 0; i < 16; ++i) {
#ifdef FP_FAST_FMAF
      c.lane[i] = std::fma(a.lane[i], b.lane[i], c.lane[i]);
#else
      c.lane[i] += a.lane[i] * b.lane[i];
#endif
    }
    return c;
  }
  // c - a * b
  static F32x16 fnma(F32x16 a, const F32x16& b, const F32x16& c) {
    for (int i = 0; i < 16; ++i) a.lane[i] = -a.lane[i];
    return fma(a, b, c);
  }
  static F32x16 to_float(const I32x16& a) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = static_cast<float>(a.lane[i]);
    return v;
  }
  // a - 32 b
  static I32x16 sub_shifted(I32x16 a, const I32x16& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] -= 32 * b.lane[i];
    return a;
  }

  template <int M, int Quads, int Chain>
  static void dot_bytes(const std::uint8_t (*w)[64], const std::int16_t* scales, const std::int8_t* x,
                        std::size_t stride, I32x16* total) {
    for (int i = 0; i < M; ++i, x += stride) {
      I32x16 sum = {};
      for (int v = 0; v < Quads; ++v) {
        for (int r = 0; r < 16; ++r) {
          for (int j = 0; j < 4; ++j) sum.lane[r] += w[v][4 * r + j] * x[4 * v + j];
        }
      }
      for (int r = 0; r < 16; ++r) total[i].lane[r] += scales[2 * r] * sum.lane[r];
    }
  }

  template <int M, int Pairs>
  static void dot_words(const std::int16_t (*w)[32], const std::int16_t* x, std::size_t stride, I32x16* total) {
    for (int i = 0; i < M; ++i) {
      const auto* xi = reinterpret_cast<const std::int16_t*>(reinterpret_cast<const std::byte*>(x) + i * stride);
      for (int p = 0; p < Pairs; ++p) {
        for (int r = 0; r < 16; ++r) {
          total[i].lane[r] += w[p][2 * r] * xi[2 * p] + w[p][2 * r + 1] * xi[2 * p + 1];
        }
      }
    }
  }
};

}  // namespace

extern const Kernels kGenericKernels = make_kernels<Generic>();

}  // namespace trivet

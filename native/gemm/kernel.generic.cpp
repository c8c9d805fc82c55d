// Plain C++ for any processor.
#include "gemm/kernel.h"

#include <array>
#include <cmath>

namespace trivet {
namespace {

struct Generic {
  static constexpr int kFloatRows = 2;
  static constexpr int kByteRows = 2;
  static constexpr bool kDirectBytes = false;
  static constexpr int kDirectBlocks = 1;

  using Rounding = ScalarRounding;
  struct F32x16 {
    float lane[16];
  };
  struct I32x16 {
    std::int32_t lane[16];
  };

  static void prefetch(const void* p) { __builtin_prefetch(static_cast<const std::byte*>(p) + 4096); }

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
  // Of float16 in the low halves of lanes.
  static F32x16 from_f16(const I32x16& lanes) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = float_from_f16(static_cast<std::uint16_t>(lanes.lane[i]));
    return v;
  }
  // Of 16 pairs of bfloat16.
  static F32x16 load_bf16_even(const std::uint32_t* p) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = float_from_bits(p[i] << 16);
    return v;
  }
  static F32x16 load_bf16_odd(const std::uint32_t* p) {
    F32x16 v;
    for (int i = 0; i < 16; ++i) v.lane[i] = float_from_bits(p[i] & 0xffff0000u);
    return v;
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
  static I32x16 izero() { return {}; }
  static I32x16 add(I32x16 a, const I32x16& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static I32x16 sub(I32x16 a, const I32x16& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] -= b.lane[i];
    return a;
  }
  static I32x16 shift_left(I32x16 a, int bits) {
    for (std::int32_t& lane : a.lane)
      lane = static_cast<std::int32_t>(static_cast<std::uint32_t>(lane) << bits);
    return a;
  }
  static I32x16 shift_right(I32x16 a, int bits) {
    for (std::int32_t& lane : a.lane)
      lane = static_cast<std::int32_t>(static_cast<std::uint32_t>(lane) >> bits);
    return a;
  }

  using Bytes = I32x16;

  static Bytes load_bytes(const std::uint8_t* p) {
    Bytes v;
    __builtin_memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static void store_bytes(std::uint8_t* p, const Bytes& v) { __builtin_memcpy(p, v.lane, sizeof v.lane); }
  static Bytes splat(int byte) { return broadcast((byte & 255) * 0x01010101); }
  static Bytes either(Bytes a, const Bytes& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] |= b.lane[i];
    return a;
  }
  static Bytes both(Bytes a, const Bytes& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] &= b.lane[i];
    return a;
  }
  static Bytes exclusive(Bytes a, const Bytes& b) {
    for (int i = 0; i < 16; ++i) a.lane[i] ^= b.lane[i];
    return a;
  }
  template <class Operation>
  static Bytes each_byte(const Bytes& a, const Bytes& b, Operation operation) {
    std::uint8_t x[64], y[64];
    __builtin_memcpy(x, a.lane, sizeof x);
    __builtin_memcpy(y, b.lane, sizeof y);
    for (int i = 0; i < 64; ++i) x[i] = static_cast<std::uint8_t>(operation(x[i], y[i]));
    return load_bytes(x);
  }
  static Bytes add_bytes(const Bytes& a, const Bytes& b) {
    return each_byte(a, b, [](int x, int y) { return x + y; });
  }
  static Bytes sub_bytes(const Bytes& a, const Bytes& b) {
    return each_byte(a, b, [](int x, int y) { return x - y; });
  }
  // Each byte shifted right (left if negative), then masked.
  static Bytes bits(const Bytes& a, int shift, int mask) {
    return each_byte(a, a, [=](int x, int) { return (shift >= 0 ? x >> shift : x << -shift) & mask; });
  }
  // 255 where a byte is at least `least`, else 0.
  static Bytes at_least(const Bytes& a, int least) {
    return each_byte(a, a, [=](int x, int) { return x >= least ? 255 : 0; });
  }
  // The lesser of each two bytes.
  static Bytes lesser(const Bytes& a, const Bytes& b) {
    return each_byte(a, b, [](int x, int y) { return x < y ? x : y; });
  }
  // Entries of a table of 16 bytes, all indices being less.
  static Bytes look_up(const std::array<std::uint8_t, 16>& table, const Bytes& index) {
    return each_byte(index, index, [&](int x, int) { return table[x]; });
  }
  // Entries of eight bytes, in halves, and of four.
  static void look_up(const std::uint64_t* table, const I32x16& index, Bytes (&halves)[2]) {
    for (int i = 0; i < 16; ++i) {
      halves[0].lane[i] = static_cast<std::int32_t>(table[index.lane[i]] & 0xffffffffu);
      halves[1].lane[i] = static_cast<std::int32_t>(table[index.lane[i]] >> 32);
    }
  }
  static Bytes look_up(const std::uint32_t* table, I32x16 index) {
    for (std::int32_t& lane : index.lane) lane = static_cast<std::int32_t>(table[lane]);
    return index;
  }
  // The eight lowest bits of a lane to the bytes of two lanes: 255 where one is set.
  static void spread_bits(const I32x16& a, Bytes (&halves)[2]) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 16; ++i) {
        const std::uint32_t four = static_cast<std::uint32_t>(a.lane[i]) >> 4 * half & 15;
        halves[half].lane[i] = static_cast<std::int32_t>((four * 0x00204081u & 0x01010101u) * 255u);
      }
    }
  }

  // Of lanes of four bytes: the even or the odd ones, widened to 16 bits.
  template <bool kSigned>
  static I32x16 even_bytes(const I32x16& a) {
    return widen<kSigned>(a, 0);
  }
  template <bool kSigned>
  static I32x16 odd_bytes(const I32x16& a) {
    return widen<kSigned>(a, 8);
  }
  template <bool kSigned>
  static I32x16 widen(I32x16 a, int shift) {
    for (std::int32_t& lane : a.lane) {
      const std::uint8_t first = lane >> shift & 255, second = lane >> (shift + 16) & 255;
      lane = kSigned ? pair(static_cast<std::int8_t>(first), static_cast<std::int8_t>(second))
                     : pair(first, second);
    }
    return a;
  }
  // Byte kByte of each lane, widened to 32 bits.
  template <int kByte, bool kSigned>
  static I32x16 byte_of_lanes(I32x16 a) {
    using Byte = std::conditional_t<kSigned, std::int8_t, std::uint8_t>;
    for (std::int32_t& lane : a.lane) lane = static_cast<Byte>(lane >> 8 * kByte);
    return a;
  }
  // Of lanes of two int16: the first or the second in both places.
  static I32x16 twice_first(I32x16 a) {
    for (std::int32_t& lane : a.lane) lane = pair(low(lane), low(lane));
    return a;
  }
  static I32x16 twice_second(I32x16 a) {
    for (std::int32_t& lane : a.lane) lane = pair(lane >> 16, lane >> 16);
    return a;
  }
  static std::int32_t pair(int first, int second) { return (first & 0xffff) | second * 65536; }

  // Both int16 of every lane multiplied.
  template <int kFactor>
  static I32x16 mul_words(I32x16 a) {
    for (std::int32_t& lane : a.lane) lane = pair(low(lane) * kFactor, (lane >> 16) * kFactor);
    return a;
  }

  static I32x16 load_lanes(const std::uint32_t* p) {
    I32x16 v;
    __builtin_memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static I32x16 load_pairs(const RowPairs& p) { return load_lanes(p.lane); }
  static void store_pairs(RowPairs& p, const I32x16& v) { __builtin_memcpy(p.lane, v.lane, sizeof p.lane); }

  static std::int32_t low(std::uint32_t pair) { return static_cast<std::int16_t>(pair & 0xffff); }

  static constexpr int kWeightBits = 8;

  template <int M, int Quads, class Quad>
  static void sum_bytes(const Quad& quad, const std::int8_t* const (&x)[M], int column, I32x16 (&sum)[M]) {
    for (int v = 0; v < Quads; ++v) {
      std::uint8_t w[64];
      store_bytes(w, quad(v));
      for (int i = 0; i < M; ++i) {
        const std::int8_t* four = x[i] + column + 4 * v;
        for (int r = 0; r < 16; ++r) {
          for (int j = 0; j < 4; ++j) sum[i].lane[r] += w[4 * r + j] * four[j];
        }
      }
    }
  }

  template <int M, int kMost, bool kSigned>
  static void add_scaled(const I32x16 (&sum)[M], const I32x16& scale, I32x16 (&total)[M]) {
    for (int i = 0; i < M; ++i) {
      for (int r = 0; r < 16; ++r) total[i].lane[r] += scale.lane[r] * sum[i].lane[r];
    }
  }

  // total[i] += w * x over `Pairs` pairs of columns of int16.
  template <int M, int Pairs>
  static void dot_words(const RowPairs* w, const std::int16_t* x, std::size_t stride, I32x16 (&total)[M]) {
    for (int i = 0; i < M; ++i) {
      const auto* xi =
          reinterpret_cast<const std::int16_t*>(reinterpret_cast<const std::byte*>(x) + i * stride);
      for (int p = 0; p < Pairs; ++p) {
        for (int r = 0; r < 16; ++r) {
          total[i].lane[r] += low(w[p].lane[r]) * xi[2 * p] + low(w[p].lane[r] >> 16) * xi[2 * p + 1];
        }
      }
    }
  }
};

}  // namespace

extern const Kernels kGenericKernels = make_kernels<Generic>();

}  // namespace trivet

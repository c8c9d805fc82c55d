// The kernels as templates over the vectors of one instruction set; included once per kernel.*.cpp.
//
// V lives in the anonymous namespace of the including source, so that no instantiation is visible to the linker: code
// compiled for one instruction set can never stand in for another's. For the same reason nothing of std:: is called.
//
// A product runs over steps of columns. Each step of a panel is first unpacked to a slab in the L1 cache, in the one
// form that all row blocks of the activations then read: weights are decoded once per kChunk rows, and a row goes
// through the same operations in the same order wherever it stands.
#pragma once

#include "formats/half.h"
#include "gemm/activations.h"
#include "gemm/kernels.h"

namespace trivet {
namespace {

// Activation rows per pass over a panel: their sums (4 KiB), a slab and a step of their columns share the L1 cache.
constexpr int kChunk = 64;
// How far ahead of its use a weight is fetched. Measured: 1 to 4 KiB are alike, less leaves the memory idle.
constexpr int kPrefetch = 2048;

alignas(32) constexpr std::int16_t kOnes[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
alignas(32) constexpr std::int16_t kSixteens[32] = {16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16,
                                        16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16};

// ---- Float weights: F32, F16, BF16 ----------------------------------------------------------------------------------

// Columns are summed with fused multiply-adds in runs of 32, ascending, and the runs' sums added ascending: short
// runs are more accurate, and one row alone can work on four of them at a time, which hides the latency of the adds.
constexpr int kRun = 32;

template <class V>
struct FloatKernel {
  static constexpr int kColumns = 4 * kRun;
  static constexpr int kRows = V::kFloatRows;
  struct alignas(64) Slab {
    float w[kColumns][kPanelRows];
  };
  using F = typename V::F32x16;

  static const float* row(const std::byte* x, std::size_t stride, int i, std::int64_t column) {
    return reinterpret_cast<const float*>(x + i * stride) + column;
  }

  // Adds `Runs` runs of `length` columns that begin at `column` of the slab.
  template <int M, int Runs>
  static void add_runs(const Slab& slab, int column, int length, const float* const x[M], F sum[M]) {
    F part[Runs][M];
    for (int j = 0; j < Runs; ++j) {
      for (int i = 0; i < M; ++i) part[j][i] = V::zero();
    }
    for (int k = 0; k < length; ++k) {
      for (int j = 0; j < Runs; ++j) {
        const int c = column + j * kRun + k;
        const F w = V::load(slab.w[c]);
        for (int i = 0; i < M; ++i) part[j][i] = V::fma(w, V::broadcast(x[i][c]), part[j][i]);
      }
    }
    for (int j = 0; j < Runs; ++j) {
      for (int i = 0; i < M; ++i) sum[i] = V::add(sum[i], part[j][i]);
    }
  }

  template <int M>
  static void tile(const Slab& slab, const std::byte* x, std::size_t stride, std::int64_t begin, int count,
                   float (*acc)[kPanelRows]) {
    constexpr int kRuns = M < 4 ? 4 / M : 1;
    const float* rows[M];
    F sum[M];
    for (int i = 0; i < M; ++i) {
      rows[i] = row(x, stride, i, begin);
      sum[i] = V::load(acc[i]);
    }
    int c = 0;
    for (; c + kRuns * kRun <= count; c += kRuns * kRun) add_runs<M, kRuns>(slab, c, kRun, rows, sum);
    for (; c < count; c += kRun) add_runs<M, 1>(slab, c, count - c < kRun ? count - c : kRun, rows, sum);
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }
};

template <class V>
struct KernelF32 : FloatKernel<V> {
  using Slab = typename FloatKernel<V>::Slab;

  static const Slab& unpack(const Panels&, const std::byte* panel, std::int64_t column, int, Slab&) {
    return *reinterpret_cast<const Slab*>(panel + column * sizeof(float) * kPanelRows);
  }
};

template <class V>
struct KernelF16 : FloatKernel<V> {
  using Slab = typename FloatKernel<V>::Slab;

  static const Slab& unpack(const Panels&, const std::byte* panel, std::int64_t column, int count, Slab& slab) {
    const auto* in = reinterpret_cast<const std::uint16_t(*)[kPanelRows]>(panel) + column;
    for (int c = 0; c < count; ++c) {
      __builtin_prefetch(reinterpret_cast<const std::byte*>(in + c) + kPrefetch);
      V::store(slab.w[c], V::load_f16(in[c]));
    }
    return slab;
  }
};

template <class V>
struct KernelBF16 : FloatKernel<V> {
  using Slab = typename FloatKernel<V>::Slab;

  static const Slab& unpack(const Panels&, const std::byte* panel, std::int64_t column, int count, Slab& slab) {
    const auto* in = reinterpret_cast<const std::uint32_t(*)[kPanelRows]>(panel) + column / 2;
    for (int c = 0; c < count; c += 2, ++in) {
      __builtin_prefetch(reinterpret_cast<const std::byte*>(in) + kPrefetch);
      V::store_bf16_pair(*in, slab.w[c], slab.w[c + 1]);
    }
    return slab;
  }
};

// ---- Integer weights ------------------------------------------------------------------------------------------------
//
// A slab holds unsigned bytes in quads. V::dot_bytes<M, Quads, Chain> adds scale * sum(w * x) over `Quads` quads to
// M int32 totals, exactly; `Chain` quads of such weights times |x| <= 127 cannot overflow 16 bits:
// 4 bits: 2 * 15 * 127 * 8 < 2^15; 6 bits: 2 * 63 * 127 * 2 < 2^15. Eight-bit weights are two planes of four bits.

template <class V, int kPlanes, int kOffset>
struct Block32Kernel {
  static constexpr int kColumns = kStep;
  static constexpr int kRows = V::kByteRows;
  struct alignas(64) Slab {
    std::uint8_t plane[kPlanes][kStep / 4][64];
    float d[kStep / 32][kPanelRows];
  };
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  static void unpack_scales(const Panels& w, const std::byte* panel, std::int64_t block, int count, Slab& slab) {
    const auto* d = reinterpret_cast<const std::uint16_t(*)[kPanelRows]>(panel + w.layout.scales) + block;
    for (int b = 0; b < count; ++b) V::store(slab.d[b], V::load_f16(d[b]));
  }

  template <int M>
  static void tile(const Slab& slab, const std::byte* x, std::size_t stride, std::int64_t begin, int count,
                   float (*acc)[kPanelRows]) {
    const auto* steps = reinterpret_cast<const ActivationStep32*>(x) + begin / kStep;
    F sum[M];
    for (int i = 0; i < M; ++i) sum[i] = V::load(acc[i]);
    for (int b = 0; b < count / 32; ++b) {
      I total[M];
      for (int i = 0; i < M; ++i) total[i] = V::broadcast(-kOffset * at(steps, stride, i)->sum[b]);
      V::template dot_bytes<M, 8, 8>(slab.plane[0] + 8 * b, kOnes, steps->q + 32 * b, stride, total);
      if constexpr (kPlanes == 2) {
        V::template dot_bytes<M, 8, 8>(slab.plane[1] + 8 * b, kSixteens, steps->q + 32 * b, stride, total);
      }
      const F d = V::load(slab.d[b]);
      for (int i = 0; i < M; ++i) {
        const F scale = V::mul(d, V::broadcast(at(steps, stride, i)->scale[b]));
        sum[i] = V::fma(V::to_float(total[i]), scale, sum[i]);
      }
    }
    for (int i = 0; i < M; ++i) V::store(acc[i], sum[i]);
  }

  static const ActivationStep32* at(const ActivationStep32* steps, std::size_t stride, int i) {
    return reinterpret_cast<const ActivationStep32*>(reinterpret_cast<const std::byte*>(steps) + i * stride);
  }
};

template <class V>
struct KernelQ4_0 : Block32Kernel<V, 1, 8> {
  using Slab = typename Block32Kernel<V, 1, 8>::Slab;

  static const Slab& unpack(const Panels& w, const std::byte* panel, std::int64_t column, int count, Slab& slab) {
    const auto* in = reinterpret_cast<const PanelQ4_0*>(panel) + column / 32;
    for (int v = 0; v < count / 8; ++v) {
      const std::uint8_t* quads = in[v / 4].quads[v % 4];
      __builtin_prefetch(quads + kPrefetch);
      std::uint8_t(*out)[64] = slab.plane[0] + v / 4 * 8 + v % 4;
      for (int i = 0; i < 64; ++i) {
        out[0][i] = quads[i] & 15;
        out[4][i] = quads[i] >> 4;
      }
    }
    KernelQ4_0::unpack_scales(w, panel, column / 32, count / 32, slab);
    return slab;
  }
};

template <class V>
struct KernelQ8_0 : Block32Kernel<V, 2, 128> {
  using Slab = typename Block32Kernel<V, 2, 128>::Slab;

  static const Slab& unpack(const Panels& w, const std::byte* panel, std::int64_t column, int count, Slab& slab) {
    const auto* in = reinterpret_cast<const PanelQ8_0*>(panel) + column / 32;
    for (int v = 0; v < count / 4; ++v) {
      const std::uint8_t* quads = in[v / 8].quads[v % 8];
      __builtin_prefetch(quads + kPrefetch);
      for (int i = 0; i < 64; ++i) {
        slab.plane[0][v][i] = quads[i] & 15;
        slab.plane[1][v][i] = quads[i] >> 4;
      }
    }
    KernelQ8_0::unpack_scales(w, panel, column / 32, count / 32, slab);
    return slab;
  }
};

// The pairs (0, 2), (1, 3) of four bytes per row, widened: the order of ActivationStep256's sums.
template <class Byte>
void widen_pairs(const Byte (*bytes)[4], std::int16_t (*pairs)[2 * kPanelRows]) {
  for (int r = 0; r < kPanelRows; ++r) {
    for (int j = 0; j < 2; ++j) {
      pairs[0][2 * r + j] = bytes[r][2 * j];
      pairs[1][2 * r + j] = bytes[r][2 * j + 1];
    }
  }
}

struct alignas(64) SlabQ4_K {
  std::uint8_t w[kStep / 4][64];
  std::int16_t scales[8][2 * kPanelRows];  // twice for each row
  std::int16_t mins[4][2 * kPanelRows];
  float d[kPanelRows], dmin[kPanelRows];
};

template <class V>
struct KernelQ4_K {
  static constexpr int kColumns = kStep;
  static constexpr int kRows = V::kByteRows;
  using Slab = SlabQ4_K;
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  static const Slab& unpack(const Panels&, const std::byte* panel, std::int64_t column, int, Slab& slab) {
    const PanelQ4_K& in = reinterpret_cast<const PanelQ4_K*>(panel)[column / kStep];
    for (int v = 0; v < 32; ++v) {
      const std::uint8_t* quads = in.quads[v];
      __builtin_prefetch(quads + kPrefetch);
      std::uint8_t(*out)[64] = slab.w + v / 8 * 16 + v % 8;
      for (int i = 0; i < 64; ++i) {
        out[0][i] = quads[i] & 15;
        out[8][i] = quads[i] >> 4;
      }
    }
    for (int run = 0; run < 8; ++run) {
      for (int r = 0; r < kPanelRows; ++r) {
        slab.scales[run][2 * r] = slab.scales[run][2 * r + 1] = in.scales[run][r];
      }
    }
    for (int g = 0; g < 2; ++g) widen_pairs(in.mins[g], slab.mins + 2 * g);
    V::store(slab.d, V::load_f16(in.d));
    V::store(slab.dmin, V::load_f16(in.dmin));
    return slab;
  }

  template <int M>
  static void tile(const Slab& slab, const std::byte* x, std::size_t stride, std::int64_t begin, int,
                   float (*acc)[kPanelRows]) {
    const auto* step = reinterpret_cast<const ActivationStep256*>(x) + begin / kStep;
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::broadcast(0);
    for (int run = 0; run < 8; ++run) {
      V::template dot_bytes<M, 8, 8>(slab.w + 8 * run, slab.scales[run], step->q + 32 * run, stride, total);
    }
    V::template dot_words<M, 4>(slab.mins, step->sum32, stride, offset);
    const F d = V::load(slab.d), dmin = V::load(slab.dmin);
    for (int i = 0; i < M; ++i) {
      const auto* xi = reinterpret_cast<const ActivationStep256*>(reinterpret_cast<const std::byte*>(step) + i * stride);
      const F scale = V::broadcast(xi->scale);
      F sum = V::load(acc[i]);
      sum = V::fma(V::to_float(total[i]), V::mul(d, scale), sum);
      sum = V::fnma(V::to_float(offset[i]), V::mul(dmin, scale), sum);
      V::store(acc[i], sum);
    }
  }
};

struct alignas(64) SlabQ6_K {
  std::uint8_t w[kStep / 4][64];
  std::int16_t scales[16][2 * kPanelRows];  // twice for each row
  std::int16_t pairs[8][2 * kPanelRows];
  float d[kPanelRows];
};

template <class V>
struct KernelQ6_K {
  static constexpr int kColumns = kStep;
  static constexpr int kRows = V::kByteRows;
  using Slab = SlabQ6_K;
  using F = typename V::F32x16;
  using I = typename V::I32x16;

  static const Slab& unpack(const Panels&, const std::byte* panel, std::int64_t column, int, Slab& slab) {
    const PanelQ6_K& in = reinterpret_cast<const PanelQ6_K*>(panel)[column / kStep];
    for (int v = 0; v < 16; ++v) {
      const std::uint8_t* low0 = in.low[v / 8 * 16 + v % 8];
      const std::uint8_t* low1 = low0 + 8 * 64;
      const std::uint8_t* high = in.high[v];
      __builtin_prefetch(low0 + kPrefetch);
      __builtin_prefetch(low1 + kPrefetch);
      __builtin_prefetch(high + kPrefetch);
      std::uint8_t(*out)[64] = slab.w + v / 8 * 32 + v % 8;
      for (int i = 0; i < 64; ++i) {
        out[0][i] = (low0[i] & 15) | (high[i] & 3) << 4;
        out[8][i] = (low1[i] & 15) | (high[i] & 12) << 2;
        out[16][i] = (low0[i] >> 4) | (high[i] & 48);
        out[24][i] = (low1[i] >> 4) | (high[i] & 192) >> 2;
      }
    }
    for (int g = 0; g < 4; ++g) {
      widen_pairs(in.scales[g], slab.pairs + 2 * g);
      for (int j = 0; j < 4; ++j) {
        for (int r = 0; r < kPanelRows; ++r) {
          slab.scales[4 * g + j][2 * r] = slab.scales[4 * g + j][2 * r + 1] = in.scales[g][r][j];
        }
      }
    }
    V::store(slab.d, V::load_f16(in.d));
    return slab;
  }

  template <int M>
  static void tile(const Slab& slab, const std::byte* x, std::size_t stride, std::int64_t begin, int,
                   float (*acc)[kPanelRows]) {
    const auto* step = reinterpret_cast<const ActivationStep256*>(x) + begin / kStep;
    I total[M], offset[M];
    for (int i = 0; i < M; ++i) total[i] = offset[i] = V::broadcast(0);
    for (int run = 0; run < 16; ++run) {
      V::template dot_bytes<M, 4, 2>(slab.w + 4 * run, slab.scales[run], step->q + 16 * run, stride, total);
    }
    V::template dot_words<M, 8>(slab.pairs, step->sum16, stride, offset);
    const F d = V::load(slab.d);
    for (int i = 0; i < M; ++i) {
      const auto* xi = reinterpret_cast<const ActivationStep256*>(reinterpret_cast<const std::byte*>(step) + i * stride);
      const F scale = V::mul(d, V::broadcast(xi->scale));
      V::store(acc[i], V::fma(V::to_float(V::sub_shifted(total[i], offset[i])), scale, V::load(acc[i])));
    }
  }
};

// ---- The product ----------------------------------------------------------------------------------------------------

template <class K, int M>
void multiply_rows(int rows, const typename K::Slab& slab, const std::byte* x, std::size_t stride,
                   std::int64_t begin, int count, float (*acc)[kPanelRows]) {
  if (rows == M) {
    K::template tile<M>(slab, x, stride, begin, count, acc);
  } else if constexpr (M > 1) {
    multiply_rows<K, M - 1>(rows, slab, x, stride, begin, count, acc);
  }
}

template <class K>
void multiply(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m, std::int64_t panel_begin,
              std::int64_t panel_end, float* y, std::int64_t ldy) {
  typename K::Slab scratch;
  alignas(64) float acc[kChunk][kPanelRows];
  for (std::int64_t first = 0; first < m; first += kChunk) {
    const int chunk = m - first < kChunk ? static_cast<int>(m - first) : kChunk;
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
      const std::byte* panel = w.data + p * w.layout.bytes;
      for (int i = 0; i < chunk; ++i) {
        for (int r = 0; r < kPanelRows; ++r) acc[i][r] = 0;
      }
      for (std::int64_t c = 0; c < w.columns; c += K::kColumns) {
        const int count = w.columns - c < K::kColumns ? static_cast<int>(w.columns - c) : K::kColumns;
        const typename K::Slab& slab = K::unpack(w, panel, c, count, scratch);
        for (int i = 0; i < chunk; i += K::kRows) {
          const int rows = chunk - i < K::kRows ? chunk - i : K::kRows;
          multiply_rows<K, K::kRows>(rows, slab, x + (first + i) * stride, stride, c, count, acc + i);
        }
      }
      const std::int64_t row = p * kPanelRows;
      const int valid = w.rows - row < kPanelRows ? static_cast<int>(w.rows - row) : kPanelRows;
      for (int i = 0; i < chunk; ++i) {
        float* out = y + (first + i) * ldy + row;
        for (int r = 0; r < valid; ++r) out[r] = acc[i][r];
      }
    }
  }
}

// ---- Activations ----------------------------------------------------------------------------------------------------

template <class V>
struct Quantize {
  // Rounds N values to q = nearest(x * 127 / max|x|), ties to even; returns the scale. A block whose largest magnitude
  // is below 2^-100 counts as zero: the reciprocal would overflow.
  template <int N>
  static float block(const float* x, std::int8_t* q) {
    std::int32_t peak_bits = 0;
    for (int i = 0; i < N; ++i) {
      std::int32_t bits;
      __builtin_memcpy(&bits, x + i, sizeof bits);
      bits &= 0x7fffffff;
      peak_bits = bits > peak_bits ? bits : peak_bits;
    }
    const float peak = float_from_bits(peak_bits);
    const bool finite = peak_bits < 0x7f800000;
    if (!finite || peak < 0x1p-100f) {
      for (int i = 0; i < N; ++i) q[i] = 0;
      return finite ? 0.0f : __builtin_nanf("");
    }
    const float inverse = 127.0f / peak;
    for (int i = 0; i < N; ++i) {
      const float shifted = x[i] * inverse + 0x1.8p23f;  // the low mantissa bits are now the rounded integer
      std::int32_t bits;
      __builtin_memcpy(&bits, &shifted, sizeof bits);
      q[i] = static_cast<std::int8_t>(bits);
    }
    return peak / 127.0f;
  }

  template <int N>
  static int sum(const std::int8_t* q) {
    int total = 0;
    for (int i = 0; i < N; ++i) total += q[i];
    return total;
  }

  static constexpr int paired(int i) { return (i & ~3) | (i & 1) << 1 | (i & 2) >> 1; }

  static void q8_32(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep32*>(out);
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      *step = {};
      for (int b = 0; b < kStep / 32 && b * 32 < columns; ++b) {
        step->scale[b] = block<32>(x + 32 * b, step->q + 32 * b);
        step->sum[b] = sum<32>(step->q + 32 * b);
      }
    }
  }

  static void q8_256(const float* x, std::int64_t columns, std::byte* out) {
    auto* step = reinterpret_cast<ActivationStep256*>(out);
    for (; columns > 0; columns -= kStep, x += kStep, ++step) {
      *step = {};
      step->scale = block<kStep>(x, step->q);
      for (int i = 0; i < kStep / 16; ++i) step->sum16[paired(i)] = sum<16>(step->q + 16 * i);
      for (int i = 0; i < kStep / 32; ++i) step->sum32[paired(i)] = sum<32>(step->q + 32 * i);
    }
  }
};

template <class V>
constexpr Kernels make_kernels() {
  return {
      .quantize_q8_32 = Quantize<V>::q8_32,
      .quantize_q8_256 = Quantize<V>::q8_256,
      .f32 = multiply<KernelF32<V>>,
      .f16 = multiply<KernelF16<V>>,
      .bf16 = multiply<KernelBF16<V>>,
      .q4_0 = multiply<KernelQ4_0<V>>,
      .q8_0 = multiply<KernelQ8_0<V>>,
      .q4_k = multiply<KernelQ4_K<V>>,
      .q6_k = multiply<KernelQ6_K<V>>,
  };
}

}  // namespace
}  // namespace trivet

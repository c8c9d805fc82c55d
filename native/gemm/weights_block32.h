// How the bytes of small blocks become weights and scales: see kernel_block.h and Block32Kernel.
#pragma once

#include "formats/grids.h"
#include "formats/half.h"
#include "gemm/kernel_block.h"

namespace trivet {
namespace {

// One run of 32 columns, without minimum.
struct OneRun {
  static constexpr int kGroups = 1, kRuns = 1, kQuads = 8;
  static constexpr bool kHasMinimum = false;
};

// A float16 scale for kBlocks times 32 columns.
template <class V, int kBlocks = 1>
struct HalfScale {
  static constexpr int kScaleBytes = 2 * kPanelRows / kBlocks;

  template <class Scratch>
  static void scales(const std::byte* in, int count, Scratch& out) {
    const auto* d = reinterpret_cast<const std::uint16_t (*)[kPanelRows]>(in);
    for (int b = 0; b < count; ++b) V::store(out.d[b], V::load_f16(d[b / kBlocks]));
  }
};

// A float16 scale and a minimum.
template <class V>
struct HalfScaleMinimum {
  static constexpr int kGroups = 1, kRuns = 1, kQuads = 8, kOffset = 0;
  static constexpr bool kHasMinimum = true;
  static constexpr int kScaleBytes = 4 * kPanelRows;

  template <class Scratch>
  static void scales(const std::byte* in, int count, Scratch& out) {
    const auto* halves = reinterpret_cast<const std::uint16_t (*)[2][kPanelRows]>(in);
    for (int b = 0; b < count; ++b) {
      V::store(out.d[b], V::load_f16(halves[b][0]));
      V::store(out.m[b], V::load_f16(halves[b][1]));
    }
  }
};

// Four bits of quads that lie 4 apart.
template <class V>
typename V::Bytes nibble(const std::uint8_t (&quads)[64], bool high) {
  return V::bits(V::load_bytes(quads), high ? 4 : 0, 15);
}

template <class V>
struct Nibbles {
  using Panel = PanelNibbles;
  static constexpr int kBits = 4;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return nibble<V>(blocks[block].quads[v % 4], v >= 4);
  }
};

template <class V>
struct FiveBits {
  using Panel = PanelFiveBits;
  static constexpr int kBits = 5;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    const Panel& in = blocks[block];
    const typename V::Bytes high = V::bits(V::load_bytes(in.high), v - 4, 16);
    return V::either(nibble<V>(in.quads[v % 4], v >= 4), high);
  }
};

template <class V>
struct WeightsQ4_0 : OneRun, Nibbles<V>, HalfScale<V> {
  static constexpr int kOffset = 8;
};

template <class V>
struct WeightsQ4_1 : Nibbles<V>, HalfScaleMinimum<V> {};

template <class V>
struct WeightsQ5_0 : OneRun, FiveBits<V>, HalfScale<V> {
  static constexpr int kOffset = 16;
};

template <class V>
struct WeightsQ5_1 : FiveBits<V>, HalfScaleMinimum<V> {};

template <class V>
struct WeightsQ8_0 : OneRun, HalfScale<V> {
  using Panel = PanelQ8_0;
  static constexpr int kBits = 8, kOffset = 128;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return V::load_bytes(blocks[block].quads[v]);
  }
};

// The values of a table of 16, kOffset added.
template <int kOffset>
constexpr std::array<std::uint8_t, 16> shifted(const std::array<std::int8_t, 16>& values) {
  std::array<std::uint8_t, 16> table = {};
  for (int i = 0; i < 16; ++i) table[i] = static_cast<std::uint8_t>(values[i] + kOffset);
  return table;
}

inline constexpr int kOffsetIQ4 = 128, kOffsetFP4 = 12;
constexpr std::array<std::uint8_t, 16> kTableIQ4 = shifted<kOffsetIQ4>(kValuesIQ4);
constexpr std::array<std::uint8_t, 16> kTableFP4 = shifted<kOffsetFP4>(kValuesFP4);

template <class V>
struct WeightsIQ4_NL : OneRun, HalfScale<V> {
  using Panel = PanelIQ4_NL;
  static constexpr int kBits = 8, kOffset = kOffsetIQ4;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return V::look_up(kTableIQ4, nibble<V>(blocks[block].quads[v % 4], v >= 4));
  }
};

template <class V>
struct WeightsMXFP4 : OneRun {
  using Panel = PanelMXFP4;
  static constexpr int kBits = 5, kMost = 2 * kOffsetFP4, kOffset = kOffsetFP4;
  static constexpr int kScaleBytes = kPanelRows;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return V::look_up(kTableFP4, nibble<V>(blocks[block].quads[v % 4], v >= 4));
  }

  template <class Scratch>
  static void scales(const std::byte* in, int count, Scratch& out) {
    const auto* exponents = reinterpret_cast<const std::uint8_t (*)[kPanelRows]>(in);
    for (int b = 0; b < count; ++b) {
      for (int r = 0; r < kPanelRows; ++r) out.d[b][r] = float_from_e8m0(exponents[b][r]);
    }
  }
};

template <class V>
struct WeightsNVFP4 {
  using Panel = PanelNVFP4;
  static constexpr int kBits = 5, kGroups = 1, kRuns = 2, kQuads = 4, kOffset = kOffsetFP4;
  static constexpr bool kHasMinimum = false;
  static constexpr int kScaleBytes = 2 * kPanelRows;

  static typename V::Bytes quad(const Panel* blocks, int block, int run, int v) {
    return V::look_up(kTableFP4, nibble<V>(blocks[block].quads[2 * run + v % 2], v >= 2));
  }

  template <class Scratch>
  static void scales(const std::byte* in, int count, Scratch& out) {
    const auto* scale = reinterpret_cast<const std::uint8_t (*)[kPanelRows]>(in);
    for (int run = 0; run < 2 * count; ++run) {
      for (int r = 0; r < kPanelRows; ++r) out.d[run][r] = float_from_ue4m3(scale[run][r]);
    }
  }
};

template <class V>
struct WeightsQ1_0 : OneRun, HalfScale<V, 4> {
  using Panel = PanelQ1_0;
  static constexpr int kBits = 2, kOffset = 1;  // 0 or 2

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return V::bits(V::load_bytes(blocks[block].bits), v - 1, 2);
  }
};

template <class V>
struct WeightsQ2_0 : OneRun, HalfScale<V, 2> {
  using Panel = PanelQ2_0;
  static constexpr int kBits = 2, kOffset = 1;

  static typename V::Bytes quad(const Panel* blocks, int block, int, int v) {
    return V::bits(V::load_bytes(blocks[block].quads[v / 4]), v % 4 * 2, 3);
  }
};

}  // namespace
}  // namespace trivet

// The kernels as templates over the vectors of one instruction set; included once per kernel.*.cpp.
//
// V lives in the anonymous namespace of the including source, so that no instantiation is visible to the
// linker: code compiled for one instruction set can never stand in for another's. For the same reason nothing
// of std:: is called. V has F32x16 and I32x16, with a lane for each row of a panel, and Bytes, with four
// columns of each row.
//
// A kernel K of a format has
//   kColumns, kStepBytes   a step: the columns worked on at a time, and their bytes in a panel's main stream
//   kRows                  rows of activations whose sums the registers hold
//   weights<fetch>(step)   a source of weights that decodes them where they are used, and with `fetch` also
//                          fetches ahead
//   unpack(weights, ..)    another, over scratch in the L1 cache that it fills with the decoded step
//   tile<M>(source, ..)    acc[0, M) += the step's products of M rows
// Up to kDirectRows<K> rows take weights that are decoded where they are used. With K::kDirect, each of up
// to V::kDirectBlocks blocks of rows decodes the panel's weights anew, which hides behind its products, and
// what is fetched ahead comes evenly; more blocks unpack them once, and fetch while they multiply. A row goes
// through the same operations in the same order either way, and in any block.
#pragma once

#include <type_traits>

#include "gemm/kernel_block256.h"
#include "gemm/kernel_block32.h"
#include "gemm/kernel_float.h"
#include "gemm/kernels.h"
#include "gemm/quantize.h"

namespace trivet {
namespace {

// Activation rows per pass over a panel, if K does not say: their sums (4 KiB), the unpacked step and the
// step's activations of one block of rows share the L1 cache.
constexpr int kChunk = 64;
template <class K>
constexpr int kChunkRows = [] {
  if constexpr (requires { K::kChunkRows; }) return K::kChunkRows;
  return kChunk;
}();

template <class K>
constexpr int kDirectRows = [] {
  if constexpr (requires { K::W::kDirectRows; })
    return K::W::kDirectRows < K::kRows ? K::W::kDirectRows : K::kRows;
  return 0;
}();

// Weights of a single row, in place of those that a few rows take: K's, decoded where they are used.
template <class K, bool kFetch>
struct OneRow {
  static auto weights(const std::byte* step) { return K::template weights<kFetch>(step); }
};

// One block of 1 to M rows.
template <class K, int M, class Weights>
void multiply_rows(int rows, const Weights& weights, const typename K::Scratch& scratch, const std::byte* x,
                   std::size_t stride, std::int64_t column, int count, float (*acc)[kPanelRows]) {
  if constexpr (M > 1) {
    if (rows < M) return multiply_rows<K, M - 1>(rows, weights, scratch, x, stride, column, count, acc);
  }
  K::template tile<M>(weights, scratch, x, stride, column, count, acc);
}

inline void clear(float (*acc)[kPanelRows], int count) {
  for (int i = 0; i < count; ++i) {
    for (int r = 0; r < kPanelRows; ++r) acc[i][r] = 0;
  }
}

// Writes the sums of `count` rows and panel p to the first columns of y that are the panel's.
inline void store_rows(const Panels& w, std::int64_t p, const float (*acc)[kPanelRows], int count, float* y,
                       std::int64_t ldy) {
  const std::int64_t row = p * kPanelRows;
  const int valid = w.rows - row < kPanelRows ? static_cast<int>(w.rows - row) : kPanelRows;
  for (int i = 0; i < count; ++i) {
    for (int r = 0; r < valid; ++r) y[i * ldy + row + r] = acc[i][r] * w.scale;
  }
}

template <class V, class K, class Single = void>
void multiply(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
              std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  constexpr int kMost = kChunkRows<K>;
  typename K::Scratch scratch;
  alignas(64) float acc[kMost][kPanelRows];
  for (std::int64_t first = 0; first < m; first += kMost) {
    const int chunk = m - first < kMost ? static_cast<int>(m - first) : kMost;
    const std::byte* rows = x + first * stride;
    const int blocks = (chunk + K::kRows - 1) / K::kRows;
    const auto multiply_blocks = [&](const auto& weights, std::int64_t column, int count, const auto& fetch) {
      int left = blocks;
      for (int i = 0, height; left > 0; --left, i += height) {
        fetch(blocks - left);
        // The last two share their rows: a short one would leave registers unused.
        height = left > 2 ? K::kRows : (chunk - i + left - 1) / left;
        multiply_rows<K, K::kRows>(height, weights, scratch, rows + i * stride, stride, column, count,
                                   acc + i);
      }
    };
    for (std::int64_t p = panel_begin; p < panel_end; ++p) {
      const std::byte* panel = w.data + p * w.layout.bytes;
      clear(acc, chunk);
      const std::byte* step = panel + w.layout.steps;
      for (std::int64_t c = 0; c < w.columns; c += K::kColumns, step += K::kStepBytes) {
        const int count = w.columns - c < K::kColumns ? static_cast<int>(w.columns - c) : K::kColumns;
        K::decode_scales(w, panel, c, count, scratch);
        if constexpr (!std::is_void_v<Single>) {
          if (chunk == 1) {
            K::template tile<1>(Single::weights(step), scratch, rows, stride, c, count, acc);
            continue;
          }
        }
        if constexpr (kDirectRows<K> > 0) {
          if (chunk <= kDirectRows<K>) {
            multiply_rows<K, kDirectRows<K>>(chunk, K::template weights<true>(step), scratch, rows, stride, c,
                                             count, acc);
            continue;
          }
        }
        if constexpr (K::kDirect) {
          if (blocks <= V::kDirectBlocks) {
            multiply_blocks(K::template weights<true>(step), c, count, [](int) {});
            continue;
          }
        }
        if constexpr (!K::kDirect || V::kDirectBlocks * K::kRows < kMost) {
          const auto unpacked = K::unpack(K::template weights<!K::kDirect>(step), count, scratch);
          multiply_blocks(unpacked, c, count, [&](int block) {
            if constexpr (K::kDirect) fetch_part<V, K::kStepBytes>(step, block, blocks);
          });
        }
      }
      store_rows(w, p, acc, chunk, y + first * ldy, ldy);
    }
  }
}

template <class V>
constexpr Kernels make_kernels() {
  Kernels kernels = {
      .quantize_q8_32 = Quantize<V>::q8_32,
      .quantize_q8_256 = {Quantize<V>::template q8_256<ColumnOrder::natural>},
      .quantize_q8_256_fast = Quantize<V>::q8_256_fast,
      .order = {},
      .round_bf16 = nullptr,
      .multiply = {},
      .multiply_rounded = {},
      .multiply_bytes = {},
      .multiply_coded = nullptr,
      .code_panel = nullptr,
      .pass_rows = kChunk,
      .few_rows = 0,
  };
  const auto set = [&](Format format, Kernels::Multiply multiply) {
    kernels.multiply[static_cast<int>(format)] = multiply;
  };
  set(Format::F32, multiply<V, KernelF32<V>>);
  set(Format::F16, multiply<V, KernelF16<V>>);
  set(Format::BF16, multiply<V, KernelBF16<V>>);
#define TRIVET_SET(name, id, values, group) \
  set(Format::name, multiply<V, Block##group##Kernel<V, Weights##name>>);
  TRIVET_BLOCK_FORMATS(TRIVET_SET)
#undef TRIVET_SET
  return kernels;
}

}  // namespace
}  // namespace trivet

// Products of many rows of int8 by the tiles of AMX. See kernel.h and tile_pass.h; V is Avx512Bf16.
//
// Integer sums are exact in any order, and what follows them is done by the same operations in the same order
// as in kernel_block32.h and kernel_block256.h. So a row has the bits that those give it, and few rows are
// left to them.
//
// What tiles put down is slow to load at first: it is added up while they multiply what comes next. Between
// two tiles' worth of stores lies that work: the processor remembers about a hundred stores, and issues
// nothing while it has no place for another. What is put down takes 4 KiB at most, as loads wait for stores
// with the same lowest 12 bits that are not theirs.
#pragma once

#include "gemm/tile_pass.h"

namespace trivet {
namespace {

// What a column of a row takes of a slab: more than its byte, as scales and sums of bytes lie beside it, and
// sums of products with all panels of a group stay in the L2 cache, too.
constexpr int kExactColumnBytes = 3;

// Two panels, if there are as many before `last`, and the columns of a slab: what a kernel multiplies, step
// by step, the second panel after the first.
struct SlabPanels {
  const PassRows& rows;
  std::int64_t panel, last, begin, end;  // columns
  TileSums* sums;

  struct Step {
    int panel, columns;
    std::int64_t column;
    const std::byte* packed;  // the panel
  };

  std::int64_t steps_of_panel() const { return (end - begin + kStep - 1) / kStep; }
  int panels() const { return panel + 1 < last ? 2 : 1; }
  std::int64_t steps() const { return panels() * steps_of_panel(); }
  Step step(std::int64_t s) const {
    const std::int64_t n = s / steps_of_panel(), column = begin + s % steps_of_panel() * kStep;
    return {static_cast<int>(n), end - column < kStep ? static_cast<int>(end - column) : kStep, column,
            rows.w.data + (panel + n) * rows.w.layout.bytes};
  }

  // Where the sums of a tile of rows go if they are whole after a step, else null.
  float* whole_sums(std::int64_t i, const Step& step) const {
    const bool whole = step.column + step.columns == rows.w.columns && rows.direct(panel, panels());
    return whole ? rows.sums_of(i, panel + step.panel) : nullptr;
  }

  // A tile of rows, from the step's columns on.
  template <class Activations>
  const std::byte* tile(std::int64_t i, const Step& step) const {
    return rows.x + rows.row(rows.first + i * kTileRows) * rows.stride +
           step.column / kStep * sizeof(Activations);
  }
};

template <class Kernel>
void multiply_tiles(const Panels& w, const std::byte* x, std::size_t stride, std::int64_t m,
                    std::int64_t panel_begin, std::int64_t panel_end, float* y, std::int64_t ldy) {
  for_each_pass(w, x, stride, m, y, ldy, Kernel::config, kTileChunk, [&](const PassRows& rows) {
    rows.for_each_slab(
        panel_begin, panel_end, kSlabBytes / kExactColumnBytes, [](auto...) {},
        [&](auto... of_panels) { Kernel{{rows, of_panels...}}.multiply(); });
  });
}

}  // namespace
}  // namespace trivet

// Packs blocks of 32 columns, and larger ones with the scales of such.
#pragma once

#include "formats/blocks.h"
#include "gemm/pack.h"

namespace trivet {
namespace {

// `part` counts the 32 columns of a block.
template <class Block>
void pack(Rows<Block> rows, int part, PanelNibbles& out) {
  interleave(4, [&](int r) { return rows[r]->q + 16 * part; }, out.quads);
}

template <class Block>
void pack(Rows<Block> rows, int, PanelFiveBits& out) {
  interleave(4, [&](int r) { return rows[r]->q; }, out.quads);
  store_words(1, [&](int r, int) { return transpose_bits(load_word(rows[r]->high, 0)); }, out.high);
}

void pack(Rows<BlockQ8_0> rows, int, PanelQ8_0& out) {
  interleave(8, [&](int r) { return rows[r]->q; }, out.quads);
  for (auto& quad : out.quads) {
    for (std::uint8_t& value : quad) value ^= 0x80;
  }
}

void pack(Rows<BlockQ1_0> rows, int part, PanelQ1_0& out) {
  store_words(1, [&](int r, int) { return transpose_bits(load_word(rows[r]->q, part)); }, out.bits);
}

void pack(Rows<BlockQ2_0> rows, int part, PanelQ2_0& out) {
  const auto word = [&](int r, int i) {
    std::uint32_t quads = 0;
    for (int v = 0; v < 4; ++v) quads |= spread_pairs(rows[r]->q[8 * part + 4 * i + v]) << 2 * v;
    return quads;
  };
  store_words(2, word, out.quads);
}

}  // namespace
}  // namespace trivet

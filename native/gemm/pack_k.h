// Packs the blocks of K formats, IQ4_XS and TQ2_0: steps of 256 columns whose weights are numbers of a few
// bits.
#pragma once

#include "formats/blocks.h"
#include "gemm/pack.h"

namespace trivet {
namespace {

void pack(Rows<BlockQ2_K> rows, int, PanelQ2_K& out) {
  interleave(16, [&](int r) { return rows[r]->q; }, out.quads);
  interleave(4, [&](int r) { return rows[r]->scales; }, out.scales);
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
  store_halves([&](int r) { return &rows[r]->dmin; }, out.dmin);
}

void pack(Rows<BlockQ3_K> rows, int, PanelQ3_K& out) {
  const auto high = [&](int r, int i) {
    const std::uint8_t* bits = rows[r]->high;
    const int shift = i / 4 * 4;
    return (load_word(bits, i % 4) >> shift & 0x0f0f0f0fu) |
           (load_word(bits, 4 + i % 4) >> shift & 0x0f0f0f0fu) << 4;
  };
  interleave(16, [&](int r) { return rows[r]->q; }, out.quads);
  store_words(8, high, out.high);
  interleave(3, [&](int r) { return rows[r]->scales; }, out.scales);
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
}

// Scales and minima of Q4_K and Q5_K, a byte each: unpack_scale of four runs at a time.
template <class Block, class Panel>
void pack_scales(Rows<Block> rows, Panel& out) {
  const auto low = [&](int r, int i) { return load_word(rows[r]->scales, i) & 0x3f3f3f3fu; };
  const auto high = [&](int r, int i) {
    return (load_word(rows[r]->scales, 2) >> 4 * i & 0x0f0f0f0fu) |
           (load_word(rows[r]->scales, i) >> 6 & 0x03030303u) << 4;
  };
  store_words(1, [&](int r, int) { return low(r, 0); }, out.scales[0]);
  store_words(1, [&](int r, int) { return high(r, 0); }, out.scales[1]);
  store_words(1, [&](int r, int) { return low(r, 1); }, out.mins[0]);
  store_words(1, [&](int r, int) { return high(r, 1); }, out.mins[1]);
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
  store_halves([&](int r) { return &rows[r]->dmin; }, out.dmin);
}

void pack(Rows<BlockQ4_K> rows, int, PanelQ4_K& out) {
  interleave(32, [&](int r) { return rows[r]->q; }, out.quads);
  pack_scales(rows, out);
}

void pack(Rows<BlockQ5_K> rows, int, PanelQ5_K& out) {
  const auto high = [&](int r, int i) {
    std::uint32_t word = 0;
    for (int v = 0; v < 4; ++v) {
      word |= (load_word(rows[r]->high, i % 2 * 4 + v) >> i / 2 * 2 & 0x03030303u) << 2 * v;
    }
    return word;
  };
  interleave(32, [&](int r) { return rows[r]->q; }, out.quads);
  store_words(8, high, out.high);
  pack_scales(rows, out);
}

void pack(Rows<BlockQ6_K> rows, int, PanelQ6_K& out) {
  interleave(32, [&](int r) { return rows[r]->low; }, out.low);
  interleave(16, [&](int r) { return rows[r]->high; }, out.high);
  interleave(4, [&](int r) { return rows[r]->scales; }, out.scales);
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
}

void pack(Rows<BlockIQ4_XS> rows, int, PanelIQ4_XS& out) {
  interleave(32, [&](int r) { return rows[r]->q; }, out.quads);
  for (int r = 0; r < kPanelRows; ++r) {
    BlockIQ4_XS block;
    std::memcpy(&block, rows[r], sizeof block);
    for (int run = 0; run < 8; ++run) {
      reinterpret_cast<std::int8_t*>(&out.scales[run / 4][r])[run % 4] =
          static_cast<std::int8_t>(unpack_scale(block, run));
    }
  }
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
}

void pack(Rows<BlockTQ2_0> rows, int, PanelTQ2_0& out) {
  interleave(16, [&](int r) { return rows[r]->q; }, out.words);
}

}  // namespace
}  // namespace trivet

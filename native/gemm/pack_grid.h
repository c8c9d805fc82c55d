// Packs the blocks of grids: their indices and signs, or the digits that these stand for. TQ1_0 has digits,
// too.
#pragma once

#include "formats/blocks.h"
#include "formats/grids.h"
#include "gemm/activations.h"
#include "gemm/pack.h"

namespace trivet {
namespace {

// digits(block, r, out) gives those of all columns of row r, of which code(digits) makes kEach one byte.
template <int kEach, int kWords, class Block, class Get, class Code>
void pack_digits(Rows<Block> rows, Get digits, Code code, std::uint32_t (*words)[kPanelRows]) {
  std::uint8_t columns[kWords * kEach * 4 + 4] = {};  // whichever is more, all of them or those of the words
  static_assert(sizeof columns >= kStep);
  for (int r = 0; r < kPanelRows; ++r) {
    digits(*rows[r], r, columns);
    for (int w = 0; w < kWords; ++w) {
      std::uint8_t bytes[4];
      for (int i = 0; i < 4; ++i) {
        int of_byte[kEach];
        for (int n = 0; n < kEach; ++n) of_byte[n] = columns[(kEach * w + n) * 4 + i];
        bytes[i] = static_cast<std::uint8_t>(code(of_byte));
      }
      words[w][r] = load_word(bytes, 0);
    }
  }
}

template <class Block, class Get>
void pack_trits(Rows<Block> rows, Get digits, std::uint32_t (*words)[kPanelRows]) {
  const auto code = [](const int (&digit)[5]) {
    return 28 * (3 * digit[0] + digit[1]) + 9 * digit[2] + 3 * digit[3] + digit[4];
  };
  pack_digits<5, kTritWords>(rows, digits, code, words);
}

void pack(Rows<BlockTQ1_0> rows, int, PanelTQ1_0& out) {
  const auto digits = [](const BlockTQ1_0& block, int, std::uint8_t* next) {
    const auto add = [&](const std::uint8_t* q, int count, int digits_each) {
      for (int n = 0, factor = 1; n < digits_each; ++n, factor *= 3) {
        for (int i = 0; i < count; ++i) {
          *next++ = static_cast<std::uint8_t>(static_cast<std::uint8_t>(q[i] * factor) * 3 >> 8);
        }
      }
    };
    add(block.q, 32, 5);
    add(block.q + 32, 16, 5);
    add(block.high, 4, 4);
  };
  pack_trits(rows, digits, out.words);
}

// Of eight nibbles those of j and 4 + j to byte j.
std::uint32_t paired_scales(std::uint32_t nibbles) {
  std::uint32_t word = 0;
  for (int j = 0; j < 4; ++j)
    word |= ((nibbles >> 4 * j & 15) | (nibbles >> (4 * j + 16) & 15) << 4) << 8 * j;
  return word;
}

// Entries of the grid for eight columns each: `high` has kBitsEach for one, more bits of its index first.
template <int kBitsEach, class Block>
void grid_digits(const Block& block, int, std::uint8_t* out) {
  for (int g = 0; g < 32; ++g) {
    const int high = (block.high[g / 4 * 2] | block.high[g / 4 * 2 + 1] << 8) >> kBitsEach * (g % 4) & 7;
    const std::uint64_t digits = kGridIQ1[block.q[g] | high << 8] >> 3;  // eight times each
    std::memcpy(out + 8 * g, &digits, sizeof digits);
  }
}

void pack(Rows<BlockIQ1_S> rows, int, PanelIQ1_S& out) {
  pack_trits(rows, grid_digits<3, BlockIQ1_S>, out.words);
  const auto scales = [&](int r, int) {
    std::uint32_t word = 0;
    for (int run = 0; run < 8; ++run) {
      word |= static_cast<std::uint32_t>(rows[r]->high[2 * run + 1] >> 4) << (run % 4 * 8 + run / 4 * 4);
    }
    return word;
  };
  store_words(1, scales, out.words[kTritWords]);
}

void pack(Rows<BlockIQ1_M> rows, int, PanelIQ1_M& out) {
  pack_trits(rows, grid_digits<4, BlockIQ1_M>, out.words);
  const auto signs = [&](int r, int) {
    std::uint32_t word = 0;
    for (int run = 0; run < 16; ++run) {
      const int high = rows[r]->high[run];
      word |= static_cast<std::uint32_t>((high >> 3 & 1) | (high >> 7 & 1) << 1)
              << (run % 4 * 8 + run / 4 * 2);
    }
    return word;
  };
  const auto scales = [&](int r, int k) {
    std::uint32_t word = 0;
    for (int j = 0; j < 4; ++j) {
      const auto part = [&](int i) { return rows[r]->scales[2 * i] | rows[r]->scales[2 * i + 1] << 8; };
      const auto scale = [&](int run) { return part(run / 4) >> run % 4 * 3 & 7; };
      const int d = part(j) >> 12 >> 2 * k & 3;
      word |= static_cast<std::uint32_t>(scale(8 * k + j) | scale(8 * k + 4 + j) << 3 | d << 6) << 8 * j;
    }
    return word;
  };
  store_words(1, signs, out.signs);
  store_words(2, scales, out.scales[0]);
}

// The signs and scales of IQ2_XXS and IQ3_XXS; word(k) is that of run k.
template <class Word>
std::uint32_t signs_and_scale(Word word, int k) {
  const std::uint32_t signs = word(k);
  std::uint32_t bytes = 0;
  for (int g = 0; g < 4; ++g) {
    bytes |= (signs >> 7 * g & 127) << 8 * g | (word(k / 4 * 4 + g) >> (28 + k % 4) & 1) << (8 * g + 7);
  }
  return bytes;
}

// Bytes m, m + 2, m + 4 and m + 6 of eight, the indices of PanelIQ3_XXS.
std::uint32_t every_other(const std::uint8_t* bytes, int m) {
  std::uint32_t word = 0;
  for (int b = 0; b < 4; ++b) word |= static_cast<std::uint32_t>(bytes[2 * b + m]) << 8 * b;
  return word;
}

void pack(Rows<BlockIQ2_XXS> rows, int, PanelIQ2_XXS& out) {
  const auto word = [&](int r, int i) {
    const std::uint8_t* words = rows[r]->words;
    if (i % 2 == 0) return load_word(words, i);
    return signs_and_scale([&](int run) { return load_word(words, 2 * run + 1); }, i / 2);
  };
  store_words(16, word, out.words);
}

void pack(Rows<BlockIQ2_XS> rows, int, PanelIQ2_XS& out) {
  const auto word = [&](int r, int i) {
    std::uint32_t bytes = 0;
    for (int g = 0; g < 4; ++g) {
      const std::uint8_t* half = rows[r]->q + 8 * (i / 2) + 2 * g;
      bytes |= (i % 2 == 0 ? half[0] : (half[1] >> 1 | half[1] << 7) & 255u) << 8 * g;
    }
    return bytes;
  };
  store_words(16, word, out.words);
  store_words(2, [&](int r, int k) { return paired_scales(load_word(rows[r]->scales, k)); }, out.words[16]);
}

void pack(Rows<BlockIQ2_S> rows, int, PanelIQ2_S& out) {
  const auto digits = [&](const BlockIQ2_S& block, int r, std::uint8_t* columns) {
    for (int g = 0; g < 32; ++g) {
      const int high = block.high[g / 4] >> 2 * (g % 4) & 3;
      const std::uint64_t entry = kGridIQ2_S[block.q[g] | high << 8];
      for (int j = 0; j < 8; ++j) {
        const int level = static_cast<int>(entry >> 8 * j & 255);
        const int number = (level > kLevelsIQ2[0]) + (level > kLevelsIQ2[1]);
        columns[8 * g + j] = static_cast<std::uint8_t>(number + 3 * (block.signs[g] >> j & 1));
      }
    }
    const std::uint8_t* last = columns + kStep - 4;
    out.last[r] = static_cast<std::uint16_t>(last[0] | last[1] << 4 | last[2] << 8 | last[3] << 12);
  };
  const auto code = [](const int (&digit)[3]) { return 44 * digit[0] + 6 * digit[1] + digit[2]; };
  pack_digits<3, kSixWords>(rows, digits, code, out.words);
  store_words(2, [&](int r, int k) { return paired_scales(load_word(rows[r]->scales, k)); }, out.scales);
  store_halves([&](int r) { return &rows[r]->d; }, out.d);
}

template <class Block>
void pack_indices(Rows<Block> rows, std::uint32_t (*words)[kPanelRows]) {
  store_words(16, [&](int r, int i) { return every_other(rows[r]->q + i / 2 * 8, i % 2); }, words);
}

void pack(Rows<BlockIQ3_XXS> rows, int, PanelIQ3_XXS& out) {
  const auto signs = [&](int r, int k) {
    return signs_and_scale([&](int run) { return load_word(rows[r]->words, run); }, k);
  };
  pack_indices(rows, out.words);
  store_words(8, signs, out.words[16]);
}

void pack(Rows<BlockIQ3_S> rows, int, PanelIQ3_S& out) {
  const auto high = [&](int r, int i) {
    std::uint32_t word = 0;  // of a run, pairs of bits as those of bytes
    for (int k = 0; k < 4; ++k) word |= spread_pairs(rows[r]->high[4 * i + k]) << 2 * k;
    return word;
  };
  pack_indices(rows, out.words);
  store_words(2, high, out.words[16]);
  interleave(8, [&](int r) { return rows[r]->signs; }, out.words[18]);
  store_words(1, [&](int r, int) { return paired_scales(load_word(rows[r]->scales, 0)); }, out.words[26]);
}

}  // namespace
}  // namespace trivet

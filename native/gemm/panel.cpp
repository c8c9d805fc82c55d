#include "gemm/panel.h"

#include <cstring>

#include "formats/blocks.h"
#include "formats/grids.h"
#include "gemm/activations.h"

namespace trivet {
namespace {

std::size_t align64(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

template <class Value>
void pack_columns(const std::byte* const rows[], std::int64_t columns, int group, std::byte* panel) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (int r = 0; r < kPanelRows; ++r) {
      const std::int64_t at = (c / group * kPanelRows + r) * group + c % group;
      std::memcpy(panel + at * sizeof(Value), rows[r] + c * sizeof(Value), sizeof(Value));
    }
  }
}

// The fields of GGUF blocks are read bytewise: a mapped file's rows need not be aligned.
std::uint32_t load_word(const void* bytes, int index) {
  std::uint32_t word;
  std::memcpy(&word, static_cast<const std::byte*>(bytes) + 4 * index, sizeof word);
  return word;
}

// out[v][r] = word(r, v)
template <class Word>
void store_words(int count, Word word, void* out) {
  for (int r = 0; r < kPanelRows; ++r) {
    for (int v = 0; v < count; ++v) {
      const std::uint32_t value = word(r, v);
      std::memcpy(static_cast<std::byte*>(out) + (v * kPanelRows + r) * 4, &value, sizeof value);
    }
  }
}

using Words = std::uint32_t __attribute__((vector_size(16)));

Words load_words(const void* bytes, int index) {
  Words words;
  std::memcpy(&words, static_cast<const std::byte*>(bytes) + 4 * index, sizeof words);
  return words;
}

// out[v][r][0..3] = bytes 4v..4v+3 of field(r), for v < count.
template <class Field>
void interleave(int count, Field field, void* out) {
  const auto at = [out](int v, int r) { return static_cast<std::byte*>(out) + (v * kPanelRows + r) * 4; };
  const int whole = count / 4 * 4;
  for (int r = 0; r < kPanelRows; r += 4) {
    for (int v = 0; v < whole; v += 4) {  // four by four words change rows for columns
      const Words a = load_words(field(r), v), b = load_words(field(r + 1), v);
      const Words c = load_words(field(r + 2), v), d = load_words(field(r + 3), v);
      const Words ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                  cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Words ef = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                  gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      const Words columns[] = {
          __builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
          __builtin_shufflevector(ef, gh, 0, 1, 4, 5), __builtin_shufflevector(ef, gh, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) std::memcpy(at(v + i, r), &columns[i], sizeof columns[i]);
    }
    for (int v = whole; v < count; ++v) {
      for (int i = r; i < r + 4; ++i) {
        const std::uint32_t word = load_word(field(i), v);
        std::memcpy(at(v, i), &word, sizeof word);
      }
    }
  }
}

// out[r] = half at field(r)
template <class Field>
void store_halves(Field field, void* out) {
  for (int r = 0; r < kPanelRows; ++r) std::memcpy(static_cast<std::byte*>(out) + 2 * r, field(r), 2);
}

// Four bits, or four pairs of bits, to the low ends of four bytes.
std::uint32_t spread_bits(std::uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }
std::uint32_t spread_pairs(std::uint32_t pairs) {
  return (pairs | pairs << 6 | pairs << 12 | pairs << 18) & 0x03030303u;
}

// Bit 4v + c of `bits` to bit v of byte c.
std::uint32_t transpose_bits(std::uint32_t bits) {
  std::uint32_t word = 0;
  for (int v = 0; v < 8; ++v) word |= spread_bits(bits >> 4 * v) << v;
  return word;
}

// The blocks of 16 rows that one panel or a part of it is packed from.
template <class Block>
using Rows = const Block* const (&)[kPanelRows];

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

// digits(block, r, out) gives those of all columns of row r, of which kEach of base kBase become a byte.
template <int kBase, int kEach, int kWords, class Block, class Get>
void pack_digits(Rows<Block> rows, Get digits, std::uint32_t (*words)[kPanelRows]) {
  constexpr int kNumbers = [] {
    int numbers = 1;
    for (int n = 0; n < kEach; ++n) numbers *= kBase;
    return numbers;
  }();
  std::uint8_t columns[kWords * kEach * 4 + 4] = {};  // whichever is more, all of them or those of the words
  static_assert(sizeof columns >= kStep);
  for (int r = 0; r < kPanelRows; ++r) {
    digits(*rows[r], r, columns);
    for (int w = 0; w < kWords; ++w) {
      std::uint8_t bytes[4];
      for (int i = 0; i < 4; ++i) {
        int number = 0;
        for (int n = 0; n < kEach; ++n) number = kBase * number + columns[(kEach * w + n) * 4 + i];
        bytes[i] = static_cast<std::uint8_t>((number * 256 + kNumbers - 1) / kNumbers);
      }
      words[w][r] = load_word(bytes, 0);
    }
  }
}

template <class Block, class Get>
void pack_trits(Rows<Block> rows, Get digits, std::uint32_t (*words)[kPanelRows]) {
  pack_digits<3, 5, kTritWords>(rows, digits, words);
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
    for (int g = 0; g < 32; ++g) word |= (rows[r]->high[g / 2] >> (g % 2 * 4 + 3) & 1u) << g;
    return word;
  };
  store_words(1, signs, out.signs);
  interleave(2, [&](int r) { return rows[r]->scales; }, out.scales);
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
  interleave(2, [&](int r) { return rows[r]->scales; }, out.words[16]);
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
  pack_digits<6, 3, kSixWords>(rows, digits, out.words);
  interleave(2, [&](int r) { return rows[r]->scales; }, out.scales);
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
  interleave(1, [&](int r) { return rows[r]->scales; }, out.words[26]);
}

// Of a block's d.
constexpr std::size_t kHalvesBytes = 2 * kPanelRows;

// Bytes of a panel's main stream for one block.
template <class Panel, int kColumns>
constexpr std::size_t main_bytes() {
  return kColumns == 256 ? sizeof(Panel) : kColumns / 32 * sizeof(Panel);
}

template <class Block, class Panel, int kColumns>
PanelLayout block_layout(std::int64_t columns) {
  const std::size_t blocks = static_cast<std::size_t>(columns / kColumns);
  const std::size_t main = blocks * main_bytes<Panel, kColumns>();
  if (kColumns == 256 && !kDApart<Panel>) return {main, 0};
  const std::size_t scales =
      align64(kDApart<Panel> ? blocks * kHalvesBytes : blocks * sizeof(Block) * kPanelRows - main);
  return {scales + main, scales};
}

// The scales of a small block are its first bytes, one each in MXFP4 and NVFP4, two each in the others.
template <class Block, std::size_t kBytes>
void pack_scales(Rows<Block> rows, std::int64_t block, std::byte* scales) {
  constexpr std::size_t kSize = sizeof(Block) % 2 == 1 || alignof(Block) == 1 ? 1 : 2;
  std::byte* out = scales + static_cast<std::size_t>(block) * kBytes * kPanelRows;
  for (std::size_t i = 0; i < kBytes; i += kSize) {
    for (int r = 0; r < kPanelRows; ++r, out += kSize) {
      std::memcpy(out, reinterpret_cast<const std::byte*>(rows[r]) + i, kSize);
    }
  }
}

template <class Block, class Panel, int kColumns>
void pack_blocks(const std::byte* const rows[], std::int64_t columns, std::byte* panel) {
  constexpr int kParts = kColumns == 256 ? 1 : kColumns / 32;
  auto* out = reinterpret_cast<Panel*>(panel + block_layout<Block, Panel, kColumns>(columns).steps);
  for (std::int64_t b = 0; b < columns / kColumns; ++b) {
    const Block* blocks[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r) {
      blocks[r] = reinterpret_cast<const Block*>(rows[r] + b * static_cast<std::int64_t>(sizeof(Block)));
    }
    // Processors foresee no reading of so many rows at once: as much of the next panel is on its way.
    const std::byte* ahead =
        rows[0] + kPanelRows * (columns / kColumns + b) * static_cast<std::int64_t>(sizeof(Block));
    for (std::size_t i = 0; i < kPanelRows * sizeof(Block); i += 64) __builtin_prefetch(ahead + i, 0, 2);
    for (int part = 0; part < kParts; ++part) pack(blocks, part, *out++);
    if constexpr (kDApart<Panel>) {
      store_halves([&](int r) { return &blocks[r]->d; }, panel + static_cast<std::size_t>(b) * kHalvesBytes);
    } else if constexpr (kColumns != 256) {
      pack_scales<Block, sizeof(Block) - kParts * sizeof(Panel) / kPanelRows>(blocks, b, panel);
    }
  }
}

}  // namespace

PanelLayout panel_layout(Format format, std::int64_t columns) {
  const std::size_t n = static_cast<std::size_t>(columns);
  switch (format) {
    case Format::F32:
      return {n * 4 * kPanelRows, 0};
    case Format::F16:
      return {align64(n * 2 * kPanelRows), 0};
    case Format::BF16:
      return {(n + 1) / 2 * 4 * kPanelRows, 0};
#define TRIVET_CASE(name, id, values, group) \
  case Format::name:                         \
    return block_layout<Block##name, Panel##name, values>(columns);
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
  return {};
}

void pack_panel(Format format, const std::byte* const rows[kPanelRows], std::int64_t columns,
                std::byte* panel) {
  switch (format) {
    case Format::F32:
      pack_columns<float>(rows, columns, 1, panel);
      break;
    case Format::F16:
      pack_columns<std::uint16_t>(rows, columns, 1, panel);
      break;
    case Format::BF16:
      pack_columns<std::uint16_t>(rows, columns, 2, panel);
      break;
#define TRIVET_CASE(name, id, values, group)                             \
  case Format::name:                                                     \
    pack_blocks<Block##name, Panel##name, values>(rows, columns, panel); \
    break;
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
}

}  // namespace trivet

// How bits of GGUF blocks of 16 rows get to their places in a panel. See panel.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gemm/panel.h"

namespace trivet {
namespace {

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

}  // namespace
}  // namespace trivet

#include <cstring>

#include "formats/blocks.h"
#include "formats/format.h"
#include "formats/grids.h"
#include "formats/half.h"

namespace trivet {
namespace {

// Each `expand` writes the values of one block; the order of the float operations is the `gguf` package's.

int nibble(const std::uint8_t* q, int i) { return q[i % 16] >> i / 16 * 4 & 15; }

int five_bits(const std::uint8_t* q, const std::uint8_t* high, int i) {
  return nibble(q, i) | (high[i / 8] >> i % 8 & 1) << 4;
}

template <class Block, class Integer>
void scaled(const Block& block, int count, float* out, Integer integer) {
  const float d = float_from_f16(block.d);
  for (int i = 0; i < count; ++i) out[i] = d * static_cast<float>(integer(i));
}

template <class Block, class Integer>
void shifted(const Block& block, float* out, Integer integer) {
  const float d = float_from_f16(block.d), m = float_from_f16(block.m);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(integer(i)) + m;
}

void expand(const BlockQ4_0& b, float* out) {
  scaled(b, 32, out, [&](int i) { return nibble(b.q, i) - 8; });
}

void expand(const BlockQ4_1& b, float* out) {
  shifted(b, out, [&](int i) { return nibble(b.q, i); });
}

void expand(const BlockQ5_0& b, float* out) {
  scaled(b, 32, out, [&](int i) { return five_bits(b.q, b.high, i) - 16; });
}

void expand(const BlockQ5_1& b, float* out) {
  shifted(b, out, [&](int i) { return five_bits(b.q, b.high, i); });
}

void expand(const BlockQ8_0& b, float* out) {
  scaled(b, 32, out, [&](int i) { return b.q[i]; });
}

void expand(const BlockIQ4_NL& b, float* out) {
  scaled(b, 32, out, [&](int i) { return kValuesIQ4[nibble(b.q, i)]; });
}

void expand(const BlockQ1_0& b, float* out) {
  scaled(b, 128, out, [&](int i) { return (b.q[i / 8] >> i % 8 & 1) * 2 - 1; });
}

void expand(const BlockQ2_0& b, float* out) {
  scaled(b, 64, out, [&](int i) { return (b.q[i / 4] >> i % 4 * 2 & 3) - 1; });
}

void expand(const BlockMXFP4& b, float* out) {
  const float d = float_from_e8m0(b.exponent);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kValuesFP4[nibble(b.q, i)]);
}

void expand(const BlockNVFP4& b, float* out) {
  for (int i = 0; i < 64; ++i) {
    const int run = i / 16, q = b.q[8 * run + i % 8] >> i % 16 / 8 * 4 & 15;
    out[i] = float_from_ue4m3(b.scale[run]) * static_cast<float>(kValuesFP4[q]);
  }
}

// The two bits of value i of a block of 256.
int two_bits(const std::uint8_t* q, int i) { return q[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3; }

void expand(const BlockQ2_K& b, float* out) {
  const float d = float_from_f16(b.d), dmin = float_from_f16(b.dmin);
  for (int i = 0; i < 256; ++i) {
    const std::uint8_t packed = b.scales[i / 16];
    const float scale = d * static_cast<float>(packed & 15), min = dmin * static_cast<float>(packed >> 4);
    out[i] = scale * static_cast<float>(two_bits(b.q, i)) - min;
  }
}

void expand(const BlockQ3_K& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int i = 0; i < 256; ++i) {
    const int q = two_bits(b.q, i) | (b.high[i % 32] >> i / 32 & 1) << 2;
    out[i] = d * static_cast<float>(unpack_scale(b, i / 16)) * static_cast<float>(q - 4);
  }
}

// `fifth` is the fifth bit of value i of a run, in its place.
template <class Block, class Fifth>
void expand_k(const Block& b, float* out, Fifth fifth) {
  const float d = float_from_f16(b.d), dmin = float_from_f16(b.dmin);
  for (int run = 0; run < 8; ++run) {
    const ScaleMin packed = unpack_scale(b.scales, run);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    for (int i = 0; i < 32; ++i) {
      const int q = (b.q[run / 2 * 32 + i] >> run % 2 * 4 & 15) | fifth(run, i);
      out[run * 32 + i] = scale * static_cast<float>(q) - min;
    }
  }
}

void expand(const BlockQ4_K& b, float* out) {
  expand_k(b, out, [](int, int) { return 0; });
}

void expand(const BlockQ5_K& b, float* out) {
  expand_k(b, out, [&](int run, int i) { return (b.high[i] >> run & 1) << 4; });
}

void expand(const BlockQ6_K& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int quarter = 0; quarter < 8; ++quarter, out += 32) {
    const int half = quarter / 4, k = quarter % 4;
    const std::uint8_t *low = b.low + 64 * half + 32 * (k % 2), *high = b.high + 32 * half;
    for (int l = 0; l < 32; ++l) {
      const int q = (low[l] >> (k / 2 * 4) & 15) | (high[l] >> 2 * k & 3) << 4;
      out[l] = d * static_cast<float>(b.scales[2 * quarter + l / 16]) * static_cast<float>(q - 32);
    }
  }
}

void expand(const BlockIQ4_XS& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int i = 0; i < 256; ++i) {
    const int run = i / 32;
    out[i] = d * static_cast<float>(unpack_scale(b, run)) *
             static_cast<float>(kValuesIQ4[nibble(b.q + 16 * run, i % 32)]);
  }
}

int digit(int byte, int n) {
  for (; n > 0; --n) byte = byte * 3 & 255;
  return byte * 3 >> 8;
}

void expand(const BlockTQ1_0& b, float* out) {
  scaled(b, 256, out, [&](int i) {
    if (i < 160) return digit(b.q[i % 32], i / 32) - 1;
    if (i < 240) return digit(b.q[32 + (i - 160) % 16], (i - 160) / 16) - 1;
    return digit(b.high[i % 4], (i - 240) / 4) - 1;
  });
}

void expand(const BlockTQ2_0& b, float* out) {
  scaled(b, 256, out, [&](int i) { return two_bits(b.q, i) - 1; });
}

template <class Word>
Word load(const std::uint8_t* bytes, int index) {
  Word word;
  std::memcpy(&word, bytes + sizeof(Word) * static_cast<std::size_t>(index), sizeof word);
  return word;
}

// Values of a grid entry, negative where a bit of `signs` is set.
template <class Entry>
void expand_entry(float scale, Entry entry, unsigned signs, float* out) {
  for (int j = 0; j < static_cast<int>(sizeof(Entry)); ++j) {
    const float value = scale * static_cast<float>(entry >> 8 * j & 255);
    out[j] = signs >> j & 1 ? -value : value;
  }
}

float half_steps(float d, unsigned scale, float factor) {
  return d * (0.5f + static_cast<float>(scale)) * factor;
}

void expand(const BlockIQ2_XXS& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int g = 0; g < 32; ++g) {
    const std::uint32_t word = load<std::uint32_t>(b.words, g / 4 * 2 + 1);
    const std::uint64_t entry = kGridIQ2_XXS[b.words[g / 4 * 8 + g % 4]];
    expand_entry(half_steps(d, word >> 28, 0.25f), entry, even_signs(word >> 7 * (g % 4)), out + 8 * g);
  }
}

void expand(const BlockIQ2_XS& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int g = 0; g < 32; ++g) {
    const unsigned q = load<std::uint16_t>(b.q, g), scale = b.scales[g / 4] >> g % 4 / 2 * 4 & 15;
    expand_entry(half_steps(d, scale, 0.25f), kGridIQ2_XS[q & 511], even_signs(q >> 9), out + 8 * g);
  }
}

void expand(const BlockIQ2_S& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int g = 0; g < 32; ++g) {
    const unsigned index = b.q[g] | (b.high[g / 4] >> g % 4 * 2 & 3) << 8;
    const unsigned scale = b.scales[g / 4] >> g % 4 / 2 * 4 & 15;
    expand_entry(half_steps(d, scale, 0.25f), kGridIQ2_S[index], b.signs[g], out + 8 * g);
  }
}

void expand(const BlockIQ3_XXS& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int v = 0; v < 64; ++v) {
    const std::uint32_t word = load<std::uint32_t>(b.words, v / 8);
    const unsigned signs = even_signs(word >> v % 8 / 2 * 7) >> v % 2 * 4;
    expand_entry(half_steps(d, word >> 28, 0.5f), 2 * kGridIQ3_XXS[b.q[v]], signs, out + 4 * v);
  }
}

void expand(const BlockIQ3_S& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int v = 0; v < 64; ++v) {
    const unsigned index = b.q[v] | (b.high[v / 8] >> v % 8 & 1) << 8;
    const int scale = 1 + 2 * (b.scales[v / 16] >> v / 8 % 2 * 4 & 15);
    const unsigned signs = b.signs[v / 2] >> v % 2 * 4;
    expand_entry(d * static_cast<float>(scale), kGridIQ3_S[index], signs, out + 4 * v);
  }
}

void expand_iq1(float scale, unsigned index, bool negative, float* out) {
  for (int j = 0; j < 8; ++j) {
    const int eighths = static_cast<int>(kGridIQ1[index] >> 8 * j & 255) - 8 + (negative ? -1 : 1);
    out[j] = scale * (0.125f * static_cast<float>(eighths));
  }
}

void expand(const BlockIQ1_S& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int g = 0; g < 32; ++g) {
    const unsigned high = load<std::uint16_t>(b.high, g / 4);
    const float scale = d * static_cast<float>(2 * (high >> 12 & 7) + 1);
    expand_iq1(scale, b.q[g] | (high >> g % 4 * 3 & 7) << 8, high >> 15, out + 8 * g);
  }
}

void expand(const BlockIQ1_M& b, float* out) {
  unsigned half = 0;
  for (int i = 0; i < 4; ++i) half |= (load<std::uint16_t>(b.scales, i) >> 12) << 4 * i;
  const float d = float_from_f16(static_cast<std::uint16_t>(half));
  for (int g = 0; g < 32; ++g) {
    const unsigned high = b.high[g / 2] >> g % 2 * 4, scales = load<std::uint16_t>(b.scales, g / 8);
    const float scale = d * static_cast<float>(2 * (scales >> g % 8 / 2 * 3 & 7) + 1);
    expand_iq1(scale, b.q[g] | (high & 7) << 8, high & 8, out + 8 * g);
  }
}

template <class Block>
void expand_all(const std::byte* blocks, std::int64_t count, int block_size, float* out) {
  for (std::int64_t i = 0; i < count; i += block_size, blocks += sizeof(Block)) {
    Block block;
    std::memcpy(&block, blocks, sizeof block);
    expand(block, out + i);
  }
}

template <class Convert>
void convert_all(const std::byte* values, std::int64_t count, float* out, Convert convert) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half;
    std::memcpy(&half, values + 2 * i, sizeof half);
    out[i] = convert(half);
  }
}

}  // namespace

void dequantize(Format format, const std::byte* blocks, std::int64_t count, float* out) {
  switch (format) {
    case Format::F32:
      std::memcpy(out, blocks, static_cast<std::size_t>(count) * sizeof(float));
      break;
    case Format::F16:
      convert_all(blocks, count, out, float_from_f16);
      break;
    case Format::BF16:
      convert_all(blocks, count, out, float_from_bf16);
      break;
#define TRIVET_CASE(name, id, values, group)             \
  case Format::name:                                     \
    expand_all<Block##name>(blocks, count, values, out); \
    break;
      TRIVET_BLOCK_FORMATS(TRIVET_CASE)
#undef TRIVET_CASE
  }
}

}  // namespace trivet

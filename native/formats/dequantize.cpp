#include <cstring>

#include "formats/blocks.h"
#include "formats/format.h"
#include "formats/grids.h"
#include "formats/half.h"

namespace trivet {
namespace {

// Each `expand` writes the values of one block; the order of the float operations is the `gguf` package's.

// value(i, q) of the low nibbles of `count` bytes, then of the high ones.
template <class Value>
void each_nibble(const std::uint8_t* q, int count, Value value) {
  for (int i = 0; i < count; ++i) value(i, q[i] & 15);
  for (int i = 0; i < count; ++i) value(count + i, q[i] >> 4);
}

template <class Value>
void each_five_bits(const std::uint8_t* q, const std::uint8_t* high, Value value) {
  std::uint32_t bits;
  std::memcpy(&bits, high, sizeof bits);
  each_nibble(q, 16, [&](int i, int low) { value(i, low | static_cast<int>(bits >> i & 1) << 4); });
}

void expand(const BlockQ4_0& b, float* out) {
  const float d = float_from_f16(b.d);
  each_nibble(b.q, 16, [&](int i, int q) { out[i] = d * static_cast<float>(q - 8); });
}

void expand(const BlockQ4_1& b, float* out) {
  const float d = float_from_f16(b.d), m = float_from_f16(b.m);
  each_nibble(b.q, 16, [&](int i, int q) { out[i] = d * static_cast<float>(q) + m; });
}

void expand(const BlockQ5_0& b, float* out) {
  const float d = float_from_f16(b.d);
  each_five_bits(b.q, b.high, [&](int i, int q) { out[i] = d * static_cast<float>(q - 16); });
}

void expand(const BlockQ5_1& b, float* out) {
  const float d = float_from_f16(b.d), m = float_from_f16(b.m);
  each_five_bits(b.q, b.high, [&](int i, int q) { out[i] = d * static_cast<float>(q) + m; });
}

void expand(const BlockQ8_0& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(b.q[i]);
}

void expand(const BlockIQ4_NL& b, float* out) {
  const float d = float_from_f16(b.d);
  each_nibble(b.q, 16, [&](int i, int q) { out[i] = d * static_cast<float>(kValuesIQ4[q]); });
}

void expand(const BlockMXFP4& b, float* out) {
  const float d = float_from_e8m0(b.exponent);
  each_nibble(b.q, 16, [&](int i, int q) { out[i] = d * static_cast<float>(kValuesFP4[q]); });
}

void expand(const BlockNVFP4& b, float* out) {
  for (int run = 0; run < 4; ++run, out += 16) {
    const float d = float_from_ue4m3(b.scale[run]);
    each_nibble(b.q + 8 * run, 8, [&](int i, int q) { out[i] = d * static_cast<float>(kValuesFP4[q]); });
  }
}

void expand(const BlockQ1_0& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int i = 0; i < 128; ++i) out[i] = b.q[i / 8] >> i % 8 & 1 ? d : -d;
}

void expand(const BlockQ2_0& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int i = 0; i < 64; ++i) out[i] = d * static_cast<float>((b.q[i / 4] >> i % 4 * 2 & 3) - 1);
}

// The two bits of run `run` of 16 values of a block of 256.
struct TwoBits {
  const std::uint8_t* q;
  int shift;

  TwoBits(const std::uint8_t* q, int run) : q(q + run / 8 * 32 + run % 2 * 16), shift(run / 2 % 4 * 2) {}
  int operator[](int i) const { return q[i] >> shift & 3; }
};

void expand(const BlockQ2_K& b, float* out) {
  const float d = float_from_f16(b.d), dmin = float_from_f16(b.dmin);
  for (int run = 0; run < 16; ++run, out += 16) {
    const float scale = d * static_cast<float>(b.scales[run] & 15);
    const float min = dmin * static_cast<float>(b.scales[run] >> 4);
    const TwoBits q(b.q, run);
    for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>(q[i]) - min;
  }
}

void expand(const BlockQ3_K& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int run = 0; run < 16; ++run, out += 16) {
    const float scale = d * static_cast<float>(unpack_scale(b, run));
    const TwoBits q(b.q, run);
    const std::uint8_t* high = b.high + run % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      out[i] = scale * static_cast<float>((q[i] | (high[i] >> run / 2 & 1) << 2) - 4);
    }
  }
}

// `fifth` is the fifth bit of value i of a run, in its place.
template <class Block, class Fifth>
void expand_k(const Block& b, float* out, Fifth fifth) {
  const float d = float_from_f16(b.d), dmin = float_from_f16(b.dmin);
  for (int run = 0; run < 8; ++run, out += 32) {
    const ScaleMin packed = unpack_scale(b.scales, run);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    const std::uint8_t* q = b.q + run / 2 * 32;
    const int shift = run % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[i] = scale * static_cast<float>((q[i] >> shift & 15) | fifth(run, i)) - min;
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
  for (int run = 0; run < 16; ++run, out += 16) {
    const int half = run / 8, k = run / 2 % 4;
    const float scale = d * static_cast<float>(b.scales[run]);
    const std::uint8_t* low = b.low + 64 * half + 32 * (k % 2) + run % 2 * 16;
    const std::uint8_t* high = b.high + 32 * half + run % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      const int q = (low[i] >> (k / 2 * 4) & 15) | (high[i] >> 2 * k & 3) << 4;
      out[i] = scale * static_cast<float>(q - 32);
    }
  }
}

void expand(const BlockIQ4_XS& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int run = 0; run < 8; ++run, out += 32) {
    const float scale = d * static_cast<float>(unpack_scale(b, run));
    each_nibble(b.q + 16 * run, 16,
                [&](int i, int q) { out[i] = scale * static_cast<float>(kValuesIQ4[q]); });
  }
}

// Values of kDigits digits of `count` bytes, all first digits before all second ones. Returns the end.
template <int kDigits>
float* expand_digits(const std::uint8_t* q, int count, float d, float* out) {
  std::uint8_t factor = 1;
  for (int n = 0; n < kDigits; ++n, factor *= 3, out += count) {
    for (int i = 0; i < count; ++i) {
      const int digit = static_cast<std::uint8_t>(q[i] * factor) * 3 >> 8;
      out[i] = d * static_cast<float>(digit - 1);
    }
  }
  return out;
}

void expand(const BlockTQ1_0& b, float* out) {
  const float d = float_from_f16(b.d);
  out = expand_digits<5>(b.q, 32, d, out);
  out = expand_digits<5>(b.q + 32, 16, d, out);
  expand_digits<4>(b.high, 4, d, out);
}

void expand(const BlockTQ2_0& b, float* out) {
  const float d = float_from_f16(b.d);
  for (int run = 0; run < 16; ++run, out += 16) {
    const TwoBits q(b.q, run);
    for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(q[i] - 1);
  }
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

// How tokens get into a tile of the cache, and come out of it as floats; see CacheLayer.
#pragma once

#include "attention/cache.h"
#include "ops/simd.h"

namespace trivet {
namespace {

constexpr int kTile = CacheLayer::kTile;

// `next` is where bytes like these will be read soon: it is fetched along with the reading.
struct TilePart {
  const std::byte* bytes;
  const std::byte* next;

  TRIVET_INLINE void prefetch(std::int64_t at) const { __builtin_prefetch(next + at, 0, 2); }
};

// Of |x| < 2^22, ties to even: adding 1.5 * 2^23 leaves the integer in the low bits.
TRIVET_INLINE int nearest(float x) {
  const float shifted = x + 0x1.8p23f;
  std::int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4b400000;
}

// Elements of one type.
template <class E>
struct PlainTile {
  // Column i of a token of lane `lane` goes to first + i * stride.
  static void store(std::byte* part, int /*dim*/, int /*lane*/, int first, int stride, const float* x,
                    int count) {
    E* out = reinterpret_cast<E*>(part) + first;
    E converted[kLanes];
    for (; count > 0; count -= kLanes, x += kLanes, out += std::int64_t{kLanes} * stride) {
      const int columns = count < kLanes ? count : kLanes;
      trivet::store(converted, load(x, count));
      if (stride == 1) {
        std::memcpy(out, converted, columns * sizeof(E));
      } else {
        for (int i = 0; i < columns; ++i) out[std::int64_t{i} * stride] = converted[i];
      }
    }
  }

  // The floats of keys [dim][kTile]; `memory` has room for them.
  static const float* keys(TilePart part, int dim, float* memory) {
    const E* in = reinterpret_cast<const E*>(part.bytes);
    constexpr int kLine = 64 / sizeof(E);
    for (int i = 0; i < dim * kTile; i += kLine) {
      part.prefetch(std::int64_t{i} * sizeof(E));
      if constexpr (sizeof(E) < sizeof(float)) {
        for (int j = i; j < i + kLine; j += kLanes) trivet::store(memory + j, load(in + j));
      }
    }
    if constexpr (sizeof(E) < sizeof(float)) return memory;
    return reinterpret_cast<const float*>(in);
  }

  // Of values [kTile][dim].
  static const float* values(TilePart part, int dim, float* memory) { return keys(part, dim, memory); }
};

// int8 and a scale for each block of columns of a token. The scale is rounded first, so that values are the
// nearest ones that it can express.
struct ScaledTile {
  static constexpr int kBlock = CacheLayer::kScaled;

  static void store(std::byte* part, int dim, int lane, int first, int stride, const float* x, int count) {
    auto* q = reinterpret_cast<std::int8_t*>(part) + first;
    auto* scale = reinterpret_cast<f16*>(part + std::int64_t{dim} * kTile) + lane;
    for (; count > 0; count -= kBlock, x += kBlock, q += std::int64_t{kBlock} * stride, scale += kTile) {
      const int columns = count < kBlock ? count : kBlock;
      std::uint32_t peak = 0;  // as bits, of which NaN has more than any number
      for (int i = 0; i < columns; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        peak = bits > peak ? bits : peak;
      }
      trivet::store(scale, float_from_bits(peak) / 127.0f);
      const float d = float_from_f16(scale->bits);
      // Of a block with a value that is not finite, or too large, every product shall be NaN.
      if (!(d < __builtin_inff())) trivet::store(scale, __builtin_nanf(""));
      const float inverse = d > 0 && d < __builtin_inff() ? 1.0f / d : 0.0f;
      for (int i = 0; i < columns; ++i) {
        const float scaled = inverse > 0 ? x[i] * inverse : 0.0f;
        const float limited = scaled < -127.0f ? -127.0f : scaled > 127.0f ? 127.0f : scaled;
        q[std::int64_t{i} * stride] = static_cast<std::int8_t>(nearest(limited));
      }
    }
  }

  static const float* keys(TilePart part, int dim, float* memory) {
    const auto* q = reinterpret_cast<const std::int8_t*>(part.bytes);
    const auto* scales = reinterpret_cast<const f16*>(part.bytes + std::int64_t{dim} * kTile);
    float* out = memory;
    for (int begin = 0; begin < dim; begin += kBlock, scales += kTile) {
      Vec scale[kTile / kLanes];
#pragma GCC unroll 2
      for (int v = 0; v < kTile / kLanes; ++v) scale[v] = load(scales + v * kLanes);
      const int end = begin + kBlock < dim ? begin + kBlock : dim;
      for (int i = begin; i < end; ++i, q += kTile, out += kTile) {
        if (i % 4 == 0) part.prefetch(std::int64_t{i} * kTile);
#pragma GCC unroll 2
        for (int v = 0; v < kTile / kLanes; ++v) {
          trivet::store(out + v * kLanes, load(q + v * kLanes) * scale[v]);
        }
      }
    }
    return memory;
  }

  static const float* values(TilePart part, int dim, float* memory) {
    const auto* q = reinterpret_cast<const std::int8_t*>(part.bytes);
    const auto* scales = reinterpret_cast<const f16*>(part.bytes + std::int64_t{dim} * kTile);
    float* out = memory;
    for (int t = 0; t < kTile; ++t) {
      for (int begin = 0; begin < dim; begin += kBlock) {
        const Vec scale = broadcast(float_from_f16(scales[begin / kBlock * kTile + t].bits));
        const int end = begin + kBlock < dim ? begin + kBlock : dim;
        part.prefetch(std::int64_t{t} * dim + begin);
        for (int i = begin; i < end; i += kLanes, q += kLanes, out += kLanes) {
          trivet::store(out, load(q) * scale);
        }
      }
    }
    return memory;
  }
};

// The functions of a type. Keys and values are of any two: what is done with a tile's floats is worth a call.
struct TileKind {
  void (*store)(std::byte* part, int dim, int lane, int first, int stride, const float* x, int count);
  const float* (*keys)(TilePart part, int dim, float* memory);
  const float* (*values)(TilePart part, int dim, float* memory);
};

template <class Tile>
constexpr TileKind kTileKind = {Tile::store, Tile::keys, Tile::values};

const TileKind& tile_kind(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return kTileKind<PlainTile<f16>>;
    case CacheType::bf16:
      return kTileKind<PlainTile<bf16>>;
    case CacheType::q8_0:
      return kTileKind<ScaledTile>;
    default:
      return kTileKind<PlainTile<float>>;
  }
}

void store_token(const CacheLayer& cache, std::int64_t tile, int lane, const float* k, const float* v) {
  const int dim = cache.dim, columns = cache.head_dim;
  const auto keys = tile_kind(cache.keys.type).store, values = tile_kind(cache.values.type).store;
  for (int head = 0; head < cache.kv_heads; ++head, k += columns, v += columns) {
    const std::int64_t part = cache.part(tile, head);
    keys(cache.keys.part(part), dim, lane, lane, kTile, k, columns);
    values(cache.values.part(part), dim, lane, lane * dim, 1, v, columns);
  }
}

}  // namespace
}  // namespace trivet

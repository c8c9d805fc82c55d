// Scores and weighted values by products of tiles of bfloat16, which Products makes: AmxProducts or
// VectorProducts.
//
// To 16 bits a float32 is the sum of two bfloat16: as these exact numerics multiply queries and weights, and
// keys and values of a cache of another type. One bfloat16 alone, which fast ones take, changes scores by as
// much as 0.4 %.
#pragma once

#include <type_traits>

#include "attention/tile_products.h"

namespace trivet {
namespace {

// The upper half of the bits is a part; adding kHalfPart rounds to nearest.
constexpr std::uint32_t kHalfPart = 0x8000, kPartBits = 0xffff0000;

// Of NaN the rounded bits might be those of a number; with kAny, they are not.
template <bool kAny>
TRIVET_INLINE Vec rounded(Vec x) {
  const Vec nearest = reinterpret_cast<Vec>(reinterpret_cast<UintVec>(x) + kHalfPart);
  return !kAny || x == x ? nearest : x;
}

TRIVET_INLINE Vec part_of(Vec rounded) {
  return reinterpret_cast<Vec>(reinterpret_cast<UintVec>(rounded) & kPartBits);
}

TRIVET_INLINE void store_pairs(std::byte* row, Vec first, Vec second) {
  const UintVec pairs =
      reinterpret_cast<UintVec>(first) >> 16 | (reinterpret_cast<UintVec>(second) & kPartBits);
  std::memcpy(row, &pairs, sizeof pairs);
}

// A row of a tile, and of the tile of low parts after it where there are two.
template <int kParts, bool kAny = true>
TRIVET_INLINE void store_parts(std::byte* row, Vec first, Vec second) {
  if constexpr (kParts == 1) {
    store_pairs(row, rounded<kAny>(first), rounded<kAny>(second));
  } else {
    // The low part of NaN and infinity is NaN.
    const Vec a = part_of(rounded<false>(first)), b = part_of(rounded<false>(second));
    store_pairs(row, a, b);
    store_pairs(row + kPart, rounded<kAny>(first - a), rounded<kAny>(second - b));
  }
}

// How a tile of the cache is packed: a bfloat16 as it is, another type's floats in up to so many parts.
template <class Tile, int kMostParts>
struct Packing {
  static constexpr bool kDirect = std::is_same_v<Tile, PlainTile<bf16>>;
  static constexpr int kParts = kDirect ? 1 : kMostParts;
  using Element = std::conditional_t<kDirect, bf16, float>;

  alignas(64) static constexpr Element kNothing[kTile] = {};

  // The elements of keys [dim][kTile]; `memory` has room for floats.
  static const Element* keys(TilePart part, int dim, float* memory) {
    if constexpr (kDirect) {
      return reinterpret_cast<const Element*>(part.bytes);
    } else {
      return Tile::keys(part, dim, memory);
    }
  }

  // Of values [kTile][dim].
  static const Element* values(TilePart part, int dim, float* memory) {
    if constexpr (kDirect) {
      return reinterpret_cast<const Element*>(part.bytes);
    } else {
      return Tile::values(part, dim, memory);
    }
  }

  static void pack_row(std::byte* row, const Element* first, const Element* second) {
    if constexpr (kDirect) {
      const UintVec pairs = widened(first) | widened(second) << 16;
      std::memcpy(row, &pairs, sizeof pairs);
    } else {
      store_parts<kParts>(row, load(first), load(second));
    }
  }
};

// What one item does with a chunk of keys and values, of a Packing each.
template <class Products, class Keys, class Values>
class TileAttention {
  static constexpr int kRowParts = Products::kRowParts;

 public:
  // Keys and values are packed anew for as many rows.
  static constexpr int kRowColumns = 24 << 10;

  static std::int64_t scratch_floats(std::int64_t rows, std::int64_t dim) {
    const std::int64_t depth = padded(dim);
    return rows * depth + kChunk * (depth * Keys::kParts + dim * Values::kParts) / 2 +
           3 * kChunkTiles * kPartFloats + kStep * dim;
  }

  TileAttention(const QueryRows& rows, float* scratch)
      : rows_(rows),
        depth_(static_cast<int>(padded(rows.dim()))),
        products_(rows.count() < kRowTile ? rows.count() : kRowTile) {
    queries_ = reinterpret_cast<std::byte*>(scratch);
    scratch += std::int64_t{AttentionKernels::padded(rows.count())} * depth_;
    keys_ = reinterpret_cast<std::byte*>(scratch);
    scratch += kChunk * depth_ * Keys::kParts / 2;
    values_ = reinterpret_cast<std::byte*>(scratch);
    scratch += kChunk * rows.dim() * Values::kParts / 2;
    scores_ = scratch;
    weights_ = reinterpret_cast<std::byte*>(scores_ + 2 * kChunkTiles * kPartFloats);
    floats_ = scores_ + 3 * kChunkTiles * kPartFloats;
    load_queries();
  }

  void attend(const Chunk& chunk, State state, float* lane_totals) {
    // Tokens have their places in the steps whatever the chunk begins with.
    const int skipped = chunk.begin / kTile % 2, columns = rows_.dim() / kTile;
    const int steps = (skipped + chunk.tiles + 1) / 2;
    pack_keys(chunk);
    pack_values(chunk, skipped, steps);
    score(0, chunk);
    for (int first = 0; first < rows_.count(); first += kRowTile) {
      // The next tile of rows is multiplied while vectors work on this one.
      if (first + kRowTile < rows_.count()) score(first + kRowTile, chunk);
      const int count = rows_.count() - first < kRowTile ? rows_.count() - first : kRowTile;
      const int tiles = rows_.tiles_seen(first, first + count, chunk);
      if (tiles == 0) continue;
      float* values = state.values + std::int64_t{first} * rows_.dim();
      float *scores = scores_of(first), *highest = state.highest + first;
      alignas(64) float decay[kRowTile];
      raise(rows_, first, chunk, tiles, scores, kTile, kPartFloats, highest, decay);
      for (int r = 0; r < count; ++r) {
        const float* of_row = scores + r * kTile;
        float* totals = lane_totals + (first + r) * kTile;
        if (skipped == 0 && tiles == kChunkTiles) {
          pack_weights(kChunkTiles, 0, of_row, r, highest[r], decay[r], totals);
        } else {
          pack_weights(tiles, skipped, of_row, r, highest[r], decay[r], totals);
        }
        if (decay[r] == 1.0f) continue;
        float* row = values + std::int64_t{r} * rows_.dim();
        for (int i = 0; i < rows_.dim(); i += kLanes) store(row + i, load(row + i) * decay[r]);
      }
      products_.template multiply<Values::kParts, true>(weights_, values_, (skipped + tiles + 1) / 2, columns,
                                                        columns, {values, rows_.dim(), kTile});
    }
  }

 private:
  static constexpr std::int64_t padded(std::int64_t dim) { return (dim + kStep - 1) / kStep * kStep; }

  void load_queries() {
    const int width = rows_.call.shape.head_dim;
    for (int r = 0; r < rows_.count(); ++r) {
      const float* q = rows_.query(r);
      const auto scaled = [&](int d) { return d < width ? load(q + d, width - d) * rows_.scale() : Vec{}; };
      std::byte* row = queries_of(r / kRowTile * kRowTile) + r % kRowTile * kRowBytes;
      for (int d = 0; d < width; d += kStep, row += kRowParts * kPart) {
        store_parts<kRowParts>(row, scaled(d), scaled(d + kTile));
      }
    }
  }

  void pack_keys(const Chunk& chunk) {
    constexpr int kParts = Keys::kParts;
    const int dim = rows_.dim();
    for (int n = 0; n < chunk.tiles; ++n) {
      const auto* keys = Keys::keys(chunk.keys[n], dim, floats_);
      std::byte* out = keys_ + n * kParts * kPart;
      for (int d = 0; d < dim; d += kStep, out += chunk.tiles * kParts * kPart) {
        for (int i = 0; i < kTile; ++i) {
          if constexpr (Keys::kDirect) chunk.keys[n].prefetch((d / 2 + i) * kRowBytes);
          const auto* first = keys + std::int64_t{d + i} * kTile;
          Keys::pack_row(out + i * kRowBytes, first,
                         d + kTile < dim ? first + kTile * kTile : Keys::kNothing);
        }
      }
    }
  }

  void pack_values(const Chunk& chunk, int skipped, int steps) {
    constexpr int kParts = Values::kParts;
    const int dim = rows_.dim(), seen = rows_.tokens_seen(0, rows_.count(), chunk);
    std::byte* out = values_;
    for (int s = 0; s < steps; ++s) {
      const typename Values::Element* values[2] = {Values::kNothing, Values::kNothing};
      const TilePart* fetched[2] = {};
      int tokens[2] = {0, 0};
      for (int half = 0; half < 2; ++half) {
        const int n = 2 * s + half - skipped;
        if (n < 0 || n >= chunk.tiles) continue;
        tokens[half] = seen - n * kTile;
        values[half] = Values::values(chunk.values[n], dim, floats_ + half * dim * kTile);
        fetched[half] = &chunk.values[n];
      }
      for (int c = 0; c < dim; c += kTile, out += kParts * kPart) {
        for (int i = 0; i < kTile; ++i) {
          if constexpr (Values::kDirect) {
            if (fetched[i % 2] != nullptr) fetched[i % 2]->prefetch((c + i) / 2 * kRowBytes);
          }
          const auto row = [&](int half) {
            return i < tokens[half] ? values[half] + std::int64_t{i} * dim + c : Values::kNothing;
          };
          Values::pack_row(out + i * kRowBytes, row(0), row(1));
        }
      }
    }
  }

  std::byte* queries_of(int first) {
    return queries_ + std::int64_t{first / kRowTile} * (depth_ / kStep) * kRowParts * kPart;
  }

  // Two tiles of rows take turns.
  float* scores_of(int first) { return scores_ + first / kRowTile % 2 * kChunkTiles * kPartFloats; }

  void score(int first, const Chunk& chunk) {
    products_.template multiply<Keys::kParts, false>(queries_of(first), keys_, depth_ / kStep, chunk.tiles,
                                                     rows_.tiles_seen(first, first + kRowTile, chunk),
                                                     {scores_of(first), kTile, kPartFloats});
  }

  // Of row r of a tile. A weight that is not a number need not stay so: the sum of weights does.
  TRIVET_INLINE void pack_weights(int tiles, int skipped, const float* scores, int r, float highest,
                                  float decay, float* lane_totals) {
    Vec weights[kChunkTiles + 2];
    weights[0] = weights[skipped + tiles] = Vec{};
    soften<kRowParts == 1>(tiles, scores, kPartFloats, highest, decay, lane_totals,
                           [&](int n, int, Vec of_tile) { weights[skipped + n] = of_tile; });
    std::byte* row = weights_ + r * kRowBytes;
#pragma GCC unroll 2
    for (int i = 0; i < skipped + tiles; i += 2, row += kRowParts * kPart) {
      store_parts<kRowParts, false>(row, weights[i], weights[i + 1]);
    }
  }

  const QueryRows& rows_;
  int depth_;  // of queries and keys: columns in whole steps
  Products products_;
  std::byte* queries_;  // [tiles of rows][steps][parts]
  std::byte* keys_;     // [steps][tiles of the chunk][parts]
  std::byte* values_;   // [steps][tiles of columns][parts]
  float* scores_;       // [2][kChunkTiles][kRowTile][kTile], then weights
  std::byte* weights_;  // [steps][parts]
  float* floats_;       // of one tile of keys or two of values, of types other than bfloat16
};

}  // namespace
}  // namespace trivet

// Scores and weighted values by AMX's tiles of bfloat16.
//
// To 16 bits a float32 is the sum of two bfloat16: as these queries and weights are multiplied, and keys and
// values of a cache of another type. One bfloat16 alone would change scores by as much as 0.4 %.
//
// Single tokens are multiplied by tiles as well: a row of a product of tiles depends on no other, so a row
// has the same bits whatever it comes with.
#pragma once

#include <type_traits>

#include "amx.h"
#include "attention/online_softmax.h"

namespace trivet {
namespace {

// Elements that one product of tiles sums over. They come in pairs: element i with element i + kTile.
constexpr int kStep = 2 * kTile;
constexpr int kPart = kTileRows * kTileBytes;  // bytes of a tile
constexpr int kPartFloats = kPart / sizeof(float);

struct Parts {
  Vec high, low;
};

// The upper half of the bits is a part; adding kHalfPart rounds to nearest.
constexpr std::uint32_t kHalfPart = 0x8000, kPartBits = 0xffff0000;

// Of NaN and infinity, the low part is NaN, which rounding might make a number; with kAny, it does not.
template <bool kAny>
TRIVET_INLINE Parts split(Vec x) {
  const Vec high = reinterpret_cast<Vec>((reinterpret_cast<UintVec>(x) + kHalfPart) & kPartBits);
  const Vec low = x - high, rounded = reinterpret_cast<Vec>(reinterpret_cast<UintVec>(low) + kHalfPart);
  return {high, !kAny || low == low ? rounded : low};
}

TRIVET_INLINE void store_pairs(std::byte* row, Vec first, Vec second) {
  const UintVec pairs =
      reinterpret_cast<UintVec>(first) >> 16 | (reinterpret_cast<UintVec>(second) & kPartBits);
  std::memcpy(row, &pairs, sizeof pairs);
}

// A row of a tile, and of the tile of low parts after it.
template <bool kAny = true>
TRIVET_INLINE void store_parts(std::byte* row, Vec first, Vec second) {
  const Parts a = split<kAny>(first), b = split<kAny>(second);
  store_pairs(row, a.high, b.high);
  store_pairs(row + kPart, a.low, b.low);
}

// Products of kTiles tiles of sums (from number C on) with the same number of tiles b.
template <int C, int kTiles, int kParts>
TRIVET_INLINE void multiply_step(const std::byte* b) {
  constexpr bool kTwo = kTiles > 1;
  for (int part = 0; part < kParts; ++part) {
    tile_load<6>(b + part * kPart, kTileBytes);
    if constexpr (kTwo) tile_load<7>(b + (part + kParts) * kPart, kTileBytes);
    tile_dot_bf16<C, 4, 6>();
    if constexpr (kTwo) tile_dot_bf16<C + 1, 4, 7>();
    tile_dot_bf16<C, 5, 6>();
    if constexpr (kTwo) tile_dot_bf16<C + 1, 5, 7>();
  }
  if constexpr (kTiles > 2) multiply_step<C + 2, kTiles - 2, kParts>(b + 2 * kParts * kPart);
}

// Where a product's sums are: rows `stride` floats apart, tiles `next`.
struct Sums {
  float* first;
  std::int64_t stride, next;
};

// Sums of kTiles tiles, each = a . b, or += with kAdd. a is [steps][high, low], b [steps][columns][kParts].
template <int kTiles, int kParts, bool kAdd>
void multiply_block(const std::byte* a, const std::byte* b, int steps, int columns, Sums sums) {
  unrolled<kTiles>([&](auto t) {
    if constexpr (kAdd) {
      tile_load<t>(sums.first + t * sums.next, sums.stride * sizeof(float));
    } else {
      tile_zero<t>();
    }
  });
  for (int s = 0; s < steps; ++s, a += 2 * kPart, b += std::int64_t{columns} * kParts * kPart) {
    tile_load<4>(a, kTileBytes);
    tile_load<5>(a + kPart, kTileBytes);
    multiply_step<0, kTiles, kParts>(b);
  }
  unrolled<kTiles>([&](auto t) { tile_store<t>(sums.first + t * sums.next, sums.stride * sizeof(float)); });
}

template <int kParts, bool kAdd, int kTiles = 4>
void multiply_parts(const std::byte* a, const std::byte* b, int steps, int columns, Sums sums,
                    int first = 0) {
  for (; first + kTiles <= columns; first += kTiles) {
    multiply_block<kTiles, kParts, kAdd>(a, b + std::int64_t{first} * kParts * kPart, steps, columns,
                                         {sums.first + first * sums.next, sums.stride, sums.next});
  }
  if constexpr (kTiles > 1) multiply_parts<kParts, kAdd, kTiles / 2>(a, b, steps, columns, sums, first);
}

// How a tile of the cache is packed: a bfloat16 as it is, another type's floats in two parts.
template <class Tile>
struct Packing {
  static constexpr bool kDirect = std::is_same_v<Tile, PlainTile<bf16>>;
  static constexpr int kParts = kDirect ? 1 : 2;
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
      store_parts(row, load(first), load(second));
    }
  }
};

// What one item does with a chunk of keys and values, of a Packing each.
template <class Keys, class Values>
class TileAttention {
 public:
  static std::int64_t scratch_floats(std::int64_t rows, std::int64_t dim) {
    const std::int64_t depth = padded(dim);
    return rows * depth + kChunk * (depth * Keys::kParts + dim * Values::kParts) / 2 +
           3 * kChunkTiles * kPartFloats + kStep * dim;
  }

  TileAttention(const QueryRows& rows, float* scratch)
      : rows_(rows),
        depth_(static_cast<int>(padded(rows.dim()))),
        config_(config(rows.count())),
        tiles_(config_) {
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
    score(0, chunk.tiles);
    for (int first = 0; first < rows_.count(); first += kTileRows) {
      // The next tile of rows is multiplied while vectors work on this one.
      if (first + kTileRows < rows_.count()) score(first + kTileRows, chunk.tiles);
      const int count = rows_.count() - first < kTileRows ? rows_.count() - first : kTileRows;
      float* values = state.values + std::int64_t{first} * rows_.dim();
      float *scores = scores_of(first), *highest = state.highest + first;
      alignas(64) float decay[kRowTile];
      raise(rows_, first, chunk, scores, kTile, kPartFloats, highest, decay);
      for (int r = 0; r < count; ++r) {
        const float* of_row = scores + r * kTile;
        float* totals = lane_totals + (first + r) * kTile;
        if (skipped == 0 && chunk.tiles == kChunkTiles) {
          pack_weights(kChunkTiles, 0, of_row, r, highest[r], decay[r], totals);
        } else {
          pack_weights(chunk.tiles, skipped, of_row, r, highest[r], decay[r], totals);
        }
        if (decay[r] == 1.0f) continue;
        float* row = values + std::int64_t{r} * rows_.dim();
        for (int i = 0; i < rows_.dim(); i += kLanes) store(row + i, load(row + i) * decay[r]);
      }
      multiply_parts<Values::kParts, true>(weights_, values_, steps, columns, {values, rows_.dim(), kTile});
    }
  }

 private:
  static constexpr std::int64_t padded(std::int64_t dim) { return (dim + kStep - 1) / kStep * kStep; }

  static constexpr TileConfig config(int rows) {
    TileConfig config;
    for (int t = 0; t < 6; ++t) config.set(t, rows < kTileRows ? rows : kTileRows, kTileBytes);
    for (int t = 6; t < 8; ++t) config.set(t, kTileRows, kTileBytes);
    return config;
  }

  void load_queries() {
    const int width = rows_.call.shape.head_dim;
    for (int r = 0; r < rows_.count(); ++r) {
      const float* q = rows_.query(r);
      const auto scaled = [&](int d) { return d < width ? load(q + d, width - d) * rows_.scale() : Vec{}; };
      std::byte* row = queries_ + std::int64_t{r / kTileRows} * kTileRows * depth_ * sizeof(float) +
                       r % kTileRows * kTileBytes;
      for (int d = 0; d < width; d += kStep, row += 2 * kPart) store_parts(row, scaled(d), scaled(d + kTile));
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
          if constexpr (Keys::kDirect) chunk.keys[n].prefetch((d / 2 + i) * kTileBytes);
          const auto* first = keys + std::int64_t{d + i} * kTile;
          Keys::pack_row(out + i * kTileBytes, first,
                         d + kTile < dim ? first + kTile * kTile : Keys::kNothing);
        }
      }
    }
  }

  void pack_values(const Chunk& chunk, int skipped, int steps) {
    constexpr int kParts = Values::kParts;
    const int dim = rows_.dim(), seen = rows_.tokens_seen(chunk);
    std::byte* out = values_;
    for (int s = 0; s < steps; ++s) {
      const typename Values::Element* values[2] = {Values::kNothing, Values::kNothing};
      int tokens[2] = {0, 0};
      for (int half = 0; half < 2; ++half) {
        const int n = 2 * s + half - skipped;
        if (n < 0 || n >= chunk.tiles) continue;
        tokens[half] = seen - n * kTile;
        values[half] = Values::values(chunk.values[n], dim, floats_ + half * dim * kTile);
        if constexpr (Values::kDirect) {
          for (int line = 0; line < dim * kTile * 2; line += 64) chunk.values[n].prefetch(line);
        }
      }
      for (int c = 0; c < dim; c += kTile, out += kParts * kPart) {
        for (int i = 0; i < kTile; ++i) {
          const auto row = [&](int half) {
            return i < tokens[half] ? values[half] + std::int64_t{i} * dim + c : Values::kNothing;
          };
          Values::pack_row(out + i * kTileBytes, row(0), row(1));
        }
      }
    }
  }

  // Two tiles of rows take turns.
  float* scores_of(int first) { return scores_ + first / kTileRows % 2 * kChunkTiles * kPartFloats; }

  void score(int first, int tiles) {
    multiply_parts<Keys::kParts, false>(queries_ + std::int64_t{first} * depth_ * sizeof(float), keys_,
                                        depth_ / kStep, tiles, {scores_of(first), kTile, kPartFloats});
  }

  // Of row r of a tile. A weight that is not a number need not stay so: the sum of weights does.
  TRIVET_INLINE void pack_weights(int tiles, int skipped, const float* scores, int r, float highest,
                                  float decay, float* lane_totals) {
    Vec weights[kChunkTiles + 2];
    weights[0] = weights[skipped + tiles] = Vec{};
    soften(tiles, scores, kPartFloats, highest, decay, lane_totals,
           [&](int n, int, Vec of_tile) { weights[skipped + n] = of_tile; });
    std::byte* row = weights_ + r * kTileBytes;
#pragma GCC unroll 2
    for (int i = 0; i < skipped + tiles; i += 2, row += 2 * kPart) {
      store_parts<false>(row, weights[i], weights[i + 1]);
    }
  }

  const QueryRows& rows_;
  int depth_;  // of queries and keys: columns in whole steps
  TileConfig config_;
  Tiles tiles_;
  std::byte* queries_;  // [tiles of rows][steps][high, low]
  std::byte* keys_;     // [steps][tiles of the chunk][parts]
  std::byte* values_;   // [steps][tiles of columns][parts]
  float* scores_;       // [2][kChunkTiles][kTileRows][kTile], then weights
  std::byte* weights_;  // [steps][high, low]
  float* floats_;       // of one tile of keys or two of values, of types other than bfloat16
};

}  // namespace
}  // namespace trivet

// Scores and weighted values by vectors of float32.
#pragma once

#include "attention/online_softmax.h"
#include "attention/row_blocks.h"

namespace trivet {
namespace {

constexpr int kTileVectors = kTile / kLanes;

// Where kernels find a tile's elements: in the cache, fetching the next tile along, or converted to floats.
template <class E>
struct CachedTile {
  TilePart part;

  TRIVET_INLINE const E* at(int element) const { return reinterpret_cast<const E*>(part.bytes) + element; }
  // The line of an element.
  TRIVET_INLINE void prefetch(int element) const { part.prefetch(std::int64_t{element} * sizeof(E)); }
  static constexpr int kLine = 64 / sizeof(E);
};

struct FloatTile {
  const float* floats;

  TRIVET_INLINE const float* at(int element) const { return floats + element; }
  TRIVET_INLINE void prefetch(int) const {}
  static constexpr int kLine = kTile;
};

// scores[r][t] = queries[r] . keys[t] for R rows and N tiles of keys; every score is one chain over the
// columns.
template <int R, int N, class Tile>
void score_block(const float* queries, const Tile* tiles, int dim, float* scores) {
  // Tiles whose keys are in registers together. A query is loaded once for all of them.
  constexpr int kTogether = kLanes == 16 ? N : 1, kVectors = kTogether * kTileVectors;
  Vec sums[R][N * kTileVectors] = {};
  for (int line = 0; line < dim * kTile; line += Tile::kLine) {
    unrolled<N>([&](auto n) { tiles[n].prefetch(line); });
    for (int i = line; i < line + Tile::kLine; i += kTile, queries += R) {
      unrolled<N / kTogether>([&](auto together) {
        constexpr int n = together * kTogether;
        const float* q = reloaded(queries);
        Vec keys[kVectors];
        unrolled<kVectors>(
            [&](auto v) { keys[v] = load(tiles[n + v / kTileVectors].at(i + v % kTileVectors * kLanes)); });
        unrolled<R>([&](auto r) {
          const Vec query = broadcast(q[r]);
          unrolled<kVectors>([&](auto v) {
            Vec& sum = sums[r][n * kTileVectors + v];
            sum = madd(query, keys[v], sum);
          });
        });
      });
    }
  }
  unrolled<R>([&](auto r) {
    unrolled<N * kTileVectors>([&](auto v) { store(scores + r * kChunk + v * kLanes, sums[r][v]); });
  });
}

// This and weigh_columns stay functions of their own: inlined into their one caller, measured, they spill
// registers and take half as long again.
template <int R, int N, class Tile>
[[gnu::noinline]] void score_tiles(const float* queries, const Tile* tiles, int count, int dim,
                                   float* scores) {
  int n = 0;
  for (; n + N <= count; n += N) score_block<R, N>(queries, tiles + n, dim, scores + n * kTile);
  if constexpr (N > 1) score_tiles<R, N / 2>(queries, tiles + n, count - n, dim, scores + n * kTile);
}

// values[r] = values[r] * decay[r] + sum_t weights[r][t] * V[t] for R rows and the C vectors of columns from
// `first` on.
template <int R, int C, class Tile>
void weigh_block(const float* weights, const float* decay, const Tile* tiles, int tokens, int dim, int first,
                 float* values) {
  Vec sums[R][C];
  const auto each_sum = [&](const auto& f) {
    unrolled<R>([&](auto r) {
      unrolled<C>([&](auto c) { f(r, sums[r][c], values + std::int64_t{r} * dim + first + c * kLanes); });
    });
  };
  each_sum([&](int r, Vec& sum, const float* value) { sum = load(value) * decay[r]; });
  for (int begin = 0; begin < tokens; begin += kTile) {
    const Tile& tile = tiles[begin / kTile];
    const int end = begin + kTile < tokens ? begin + kTile : tokens;
    for (int t = begin, i = first; t < end; ++t, i += dim) {
      for (int c = 0; c < C * kLanes; c += Tile::kLine) tile.prefetch(i + c);
      const auto value = [&](int c) { return load(tile.at(i + c * kLanes)); };
      const auto weight = [&](int r) { return broadcast(weights[r * kChunk + t]); };
      // The fewer of them are in registers beside the sums.
      if constexpr (R < C) {
        Vec w[R];
        unrolled<R>([&](auto r) { w[r] = weight(r); });
        unrolled<C>([&](auto c) {
          const Vec v = value(c);
          unrolled<R>([&](auto r) { sums[r][c] = madd(w[r], v, sums[r][c]); });
        });
      } else {
        Vec v[C];
        unrolled<C>([&](auto c) { v[c] = value(c); });
        unrolled<R>([&](auto r) {
          const Vec w = weight(r);
          unrolled<C>([&](auto c) { sums[r][c] = madd(w, v[c], sums[r][c]); });
        });
      }
    }
  }
  each_sum([](int, const Vec& sum, float* value) { store(value, sum); });
}

// The same for all columns from `first` on.
template <int R, int C, class Tile>
[[gnu::noinline]] void weigh_columns(const float* weights, const float* decay, const Tile* tiles, int tokens,
                                     int dim, int first, float* values) {
  for (; first + C * kLanes <= dim; first += C * kLanes) {
    weigh_block<R, C>(weights, decay, tiles, tokens, dim, first, values);
  }
  if constexpr (C > 1) weigh_columns<R, C / 2>(weights, decay, tiles, tokens, dim, first, values);
}

// What one item does with a chunk of keys and values.
class VectorAttention {
 public:
  // All scores of a chunk wait for its values.
  static constexpr int kRowColumns = 8 << 10;

  // Beside other methods, single tokens, which it reads from the cache as fast as memory gives them.
  static bool takes(const AttentionItem& item, const AttentionShape&) { return item.tokens == 1; }

  static std::int64_t scratch_floats(std::int64_t rows, std::int64_t dim) {
    return rows * (dim + kChunk + 1) + kChunk * dim;
  }

  VectorAttention(const QueryRows& rows, float* scratch) : rows_(rows) {
    const std::int64_t padded = AttentionKernels::padded(rows.count());
    queries_ = scratch;
    scores_ = queries_ + padded * rows.dim();
    decay_ = scores_ + padded * kChunk;
    floats_ = decay_ + padded;
    load_queries();
  }

  void attend(const Chunk& chunk, State state, float* lane_totals) {
    const CacheLayer& cache = rows_.call.cache;
    with_tiles(cache.keys.type, tile_kind(cache.keys.type).keys, chunk.keys, chunk.tiles,
               [&](const auto* tiles) { score(tiles, chunk); });
    for (int first = 0; first < rows_.count(); first += kRowTile) {
      // Blocks of rows may begin in one tile of rows and end in the next.
      const int begin = first < kBlockRows ? 0 : first - kBlockRows + 1;
      const int tiles = rows_.tiles_seen(begin, first + kRowTile + kBlockRows - 1, chunk);
      raise(rows_, first, chunk, tiles, scores_ + first * kChunk, kChunk, kTile, state.highest + first,
            decay_ + first);
      for (int r = first; r < first + kRowTile && r < rows_.count(); ++r) {
        float* scores = scores_ + r * kChunk;
        soften(tiles, scores, kTile, state.highest[r], decay_[r], lane_totals + r * kTile,
               [scores](int n, int i, Vec weights) { store(scores + n * kTile + i, weights); });
      }
    }
    with_tiles(cache.values.type, tile_kind(cache.values.type).values, chunk.values, chunk.tiles,
               [&](const auto* tiles) { weigh(tiles, chunk, state); });
  }

 private:
  // Rows in one block read the cache themselves; more have it converted to floats once.
  static constexpr int kReading = 6;

  // Calls f(tiles) with the tiles of some parts.
  template <class F>
  void with_tiles(CacheType type, const float* (*convert)(TilePart, int, float*), const TilePart* parts,
                  int count, F&& f) {
    if (rows_.count() <= kReading) {
      switch (type) {
        case CacheType::f32:
          return with_cached<float>(parts, count, f);
        case CacheType::f16:
          return with_cached<f16>(parts, count, f);
        case CacheType::bf16:
          return with_cached<bf16>(parts, count, f);
        case CacheType::q8_0:
          break;
      }
    }
    const int dim = rows_.dim();
    FloatTile tiles[kChunkTiles];
    for (int n = 0; n < count; ++n) {
      tiles[n].floats = convert(parts[n], dim, floats_ + std::int64_t{n} * dim * kTile);
    }
    f(tiles);
  }

  template <class E, class F>
  static void with_cached(const TilePart* parts, int count, F&& f) {
    CachedTile<E> tiles[kChunkTiles];
    for (int n = 0; n < count; ++n) tiles[n].part = parts[n];
    f(tiles);
  }

  template <class Tile>
  void score(const Tile* tiles, const Chunk& chunk) {
    for_row_blocks(rows_.count(), [&]<int R>(int r) {
      // Enough independent sums to hide the latency, few enough to stay in registers.
      constexpr int N = kLanes == 16 || R == 1 ? 4 : R <= 3 ? 2 : 1;
      score_tiles<R, N>(queries_ + std::int64_t{r} * rows_.dim(), tiles, rows_.tiles_seen(r, r + R, chunk),
                        rows_.dim(), scores_ + r * kChunk);
    });
  }

  template <class Tile>
  void weigh(const Tile* tiles, const Chunk& chunk, State state) {
    for_row_blocks(rows_.count(), [&]<int R>(int r) {
      constexpr int C = R == 1 ? 8 : kLanes == 16 || R <= 3 ? 4 : 2;
      weigh_columns<R, C>(scores_ + r * kChunk, decay_ + r, tiles, rows_.tokens_seen(r, r + R, chunk),
                          rows_.dim(), 0, state.values + std::int64_t{r} * rows_.dim());
    });
  }

  void load_queries() {
    const int width = rows_.call.shape.head_dim, dim = rows_.dim();
    for_row_blocks(rows_.count(), [&]<int R>(int first) {
      float* block = queries_ + std::int64_t{first} * dim;
      for (int r = 0; r < R; ++r) {
        const float* q = rows_.query(first + r);
        for (int d = 0; d < dim; ++d) block[d * R + r] = d < width ? q[d] * rows_.scale() : 0.0f;
      }
    });
  }

  const QueryRows& rows_;
  float* queries_;  // [block of rows][dim][rows of the block], see for_row_blocks
  float* scores_;   // [rows][kChunk]
  float* decay_;    // [rows]
  float* floats_;   // keys [kChunkTiles][dim][kTile], then values [kChunkTiles][kTile][dim]
};

}  // namespace
}  // namespace trivet

// Few rows of exact numerics by vectors, with the bits that products of tiles give them (attention_tiles.h),
// of a cache of bfloat16. Tiles multiply 16 rows at a time, and keys and values have to be packed for them.
//
// A product of tiles sums kStep elements in two chains, of the first and of the second of all pairs, adds the
// one to the other and both to what was there before. Subnormals count as zero there; so they do in all that
// a team's threads do.
#pragma once

#include "attention/attention_tiles.h"
#include "attention/attention_vectors.h"

namespace trivet {
namespace {

class ChainAttention {
  using Tile = CachedTile<bf16>;
  static constexpr int kParts = 2;
  // Of more, products of tiles take less time.
  static constexpr int kMostRows = 4;
  static_assert(kLanes == kTile);

 public:
  static bool takes(const AttentionItem& item, const AttentionShape& shape) {
    return item.tokens * shape.group() <= kMostRows;
  }

  static std::int64_t scratch_floats(std::int64_t /*rows*/, std::int64_t dim) {
    return kMostRows * (kParts * dim + (kParts + 1) * kChunk);
  }

  ChainAttention(const QueryRows& rows, float* scratch) : rows_(rows) {
    queries_ = scratch;
    scores_ = queries_ + kMostRows * kParts * rows.dim();
    weights_ = scores_ + kMostRows * kChunk;
    load_queries();
  }

  void attend(const Chunk& chunk, State state, float* lane_totals) {
    const int tokens = rows_.tokens_seen(0, rows_.count(), chunk), count = (tokens + kTile - 1) / kTile;
    if (count == 0) return;
    Tile keys[kChunkTiles], values[kChunkTiles + 1] = {};
    for (int n = 0; n < chunk.tiles; ++n) {
      keys[n].part = chunk.keys[n];
      values[n].part = chunk.values[n];
    }
    const int skipped = chunk.begin / kTile % 2;  // tiles of a step before the chunk
    for_rows([&]<int R> { score_tiles<R, R <= 3 ? 4 : 2>(keys, 0, count); });
    alignas(64) float decay[kRowTile];
    raise(rows_, 0, chunk, count, scores_, kChunk, kTile, state.highest, decay);
    for (int r = 0; r < rows_.count(); ++r) {
      soften(count, scores_ + r * kChunk, kTile, state.highest[r], decay[r], lane_totals + r * kTile,
             [&](int n, int, Vec weights) { store_both<false>(weights_of(n, rows_.count()), r, weights); });
      if (decay[r] == 1.0f) continue;
      float* row = state.values + std::int64_t{r} * rows_.dim();
      for (int i = 0; i < rows_.dim(); i += kLanes) store(row + i, load(row + i) * decay[r]);
    }
    for_rows([&]<int R> { weigh_columns<R, R <= 3 ? 4 : 2>(values, skipped, tokens, 0, state.values); });
  }

 private:
  // Calls f<how many rows there are>.
  template <class F>
  void for_rows(const F& f) const {
    static_assert(kMostRows == 4);
    switch (rows_.count()) {
      case 1:
        return f.template operator()<1>();
      case 2:
        return f.template operator()<2>();
      case 3:
        return f.template operator()<3>();
      default:
        return f.template operator()<4>();
    }
  }

  // The parts of row r, of kTile elements of all rows that lie beside one another.
  template <bool kAny>
  static void store_both(float* of_rows, int r, Vec x) {
    const Vec high = part_of(rounded<false>(x));
    store(of_rows + (kParts * r + 0) * kTile, high);
    store(of_rows + (kParts * r + 1) * kTile, part_of(rounded<kAny>(x - high)));
  }

  float* weights_of(int tile, int rows) const { return weights_ + tile * kParts * rows * kTile; }

  void load_queries() {
    const int width = rows_.call.shape.head_dim;
    for (int d = 0; d < rows_.dim(); d += kTile) {
      for (int r = 0; r < rows_.count(); ++r) {
        const Vec q = d < width ? load(rows_.query(r) + d, width - d) * rows_.scale() : Vec{};
        store_both<true>(queries_ + kParts * rows_.count() * d, r, q);
      }
    }
  }

  // To the L1 cache: so many sums wait for what is loaded that little of what follows is looked at.
  TRIVET_INLINE static void fetch(const Tile& tile, int element) {
    __builtin_prefetch(tile.part.next + std::int64_t{element} * sizeof(bf16), 0, 3);
  }

  // sums[p][n] = the products of kTile columns, from `first` on, of part p and a key of tile n.
  template <int P, int N>
  TRIVET_INLINE static void sum_columns(const float* queries, const Tile* tiles, int first,
                                        Vec (&sums)[P][N]) {
    unrolled<P>([&](auto p) { unrolled<N>([&](auto n) { sums[p][n] = Vec{}; }); });
    for (int i = 0; i < kTile; i += Tile::kLine / kTile) {
      const int line = (first + i) * kTile;
      unrolled<N>([&](auto n) { fetch(tiles[n], line); });
      unrolled<Tile::kLine / kTile>([&](auto column) {
        const float* q = reloaded(queries + i + column);
        Vec keys[N];
        unrolled<N>([&](auto n) { keys[n] = load(tiles[n].at(line + column * kTile)); });
        unrolled<P>([&](auto p) {
          const Vec query = broadcast(q[p * kTile]);
          unrolled<N>([&](auto n) { sums[p][n] = madd(query, keys[n], sums[p][n]); });
        });
      });
    }
  }

  // The scores of N tiles, from `first` on, and then of fewer.
  template <int R, int N>
  [[gnu::noinline]] void score_tiles(const Tile* tiles, int first, int count) const {
    constexpr int P = kParts * R;
    for (; first + N <= count; first += N) {
      Vec totals[R][N] = {};
      const float* queries = queries_;
      for (int d = 0; d < rows_.dim(); d += kStep, queries += kStep * P) {
        Vec one[P][N], other[P][N] = {};
        sum_columns<P, N>(queries, tiles + first, d, one);
        if (d + kTile < rows_.dim()) sum_columns<P, N>(queries + kTile * P, tiles + first, d + kTile, other);
        unrolled<P>([&](auto p) {
          constexpr int part = p / R, r = p % R;
          unrolled<N>(
              [&](auto n) { totals[r][n] += one[kParts * r + part][n] + other[kParts * r + part][n]; });
        });
      }
      unrolled<R>([&](auto r) {
        unrolled<N>([&](auto n) { store(scores_ + r * kChunk + (first + n) * kTile, totals[r][n]); });
      });
    }
    if constexpr (N > 1) score_tiles<R, N / 2>(tiles, first, count);
  }

  // out[p][c] = the products of part p's weights and a tile's values, of C vectors of columns. A function of
  // its own: inlined, it spills registers and takes half as long again.
  template <int P, int C>
  [[gnu::noinline]] static void sum_tokens(const float* weights, const Tile& tile, int tokens, int dim,
                                           int first, Vec (&out)[P][C]) {
    Vec sums[P][C] = {};
    if (tokens > kTile) tokens = kTile;
    for (int t = 0; t < tokens; ++t, first += dim) {
      for (int c = 0; c < C * kLanes; c += Tile::kLine) fetch(tile, first + c);
      Vec values[C];
      unrolled<C>([&](auto c) { values[c] = load(tile.at(first + c * kLanes)); });
      unrolled<P>([&](auto p) {
        const Vec weight = broadcast(weights[p * kTile + t]);
        unrolled<C>([&](auto c) { sums[p][c] = madd(weight, values[c], sums[p][c]); });
      });
    }
    unrolled<P>([&](auto p) { unrolled<C>([&](auto c) { out[p][c] = sums[p][c]; }); });
  }

  // Adds the weighted values of `tokens` tokens, C vectors of columns at a time from `first` on, and then
  // fewer.
  template <int R, int C>
  [[gnu::noinline]] void weigh_columns(const Tile* tiles, int skipped, int tokens, int first,
                                       float* values) const {
    constexpr int P = kParts * R;
    for (; first + C * kLanes <= rows_.dim(); first += C * kLanes) {
      for (int n = -skipped; n * kTile < tokens; n += 2) {
        Vec one[P][C], other[P][C];
        sum_tokens<P, C>(weights_of(n, R), tiles[n < 0 ? 0 : n], n < 0 ? 0 : tokens - n * kTile, rows_.dim(),
                         first, one);
        sum_tokens<P, C>(weights_of(n + 1, R), tiles[n + 1], tokens - (n + 1) * kTile, rows_.dim(), first,
                         other);
        unrolled<P>([&](auto p) {
          constexpr int part = p / R, r = p % R;
          unrolled<C>([&](auto c) {
            float* value = values + std::int64_t{r} * rows_.dim() + first + c * kLanes;
            store(value, load(value) + (one[kParts * r + part][c] + other[kParts * r + part][c]));
          });
        });
      }
    }
    if constexpr (C > 1) weigh_columns<R, C / 2>(tiles, skipped, tokens, first, values);
  }

  const QueryRows& rows_;
  float* queries_;  // [tiles of columns][rows][parts][kTile]
  float* scores_;   // [rows][kChunk]
  float* weights_;  // [tiles of the chunk][rows][parts][kTile]
};

}  // namespace
}  // namespace trivet

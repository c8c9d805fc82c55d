// Attention for one instruction set; included by the sources that compile it.
#pragma once

#include "attention/attention.h"
#include "attention/tile.h"
#include "ops/simd.h"

namespace trivet {
namespace {

constexpr int kChunk = AttentionKernels::kChunk;
constexpr int kSplit = AttentionKernels::kSplit;
constexpr int kChunkTiles = kChunk / kTile;

// Stands for -infinity where differences are taken: far below any score, yet its difference with itself is 0.
constexpr float kLowest = -1e30f;

TRIVET_INLINE float exp_negative(float x) { return exp_negative(broadcast(x))[0]; }

// A running softmax for each row: the maximum, the sum of exponentials and the weighted sum of values [dim].
struct State {
  float* highest;
  float* total;
  float* values;
};

TRIVET_INLINE State state_at(float* memory, int rows) { return {memory, memory + rows, memory + 2 * rows}; }

struct Scratch {
  float* queries;      // [block of rows][dim][rows of the block], see for_row_blocks
  float* scores;       // [rows][kChunk]
  float* lane_totals;  // [rows][kTile]
  float* decay;        // [rows]
  float* floats;       // keys [kChunkTiles][dim][kTile], then values [kChunkTiles][kTile][dim]
  State split, merged;

  Scratch(float* memory, int rows, int dim) {
    const auto take = [&memory](std::int64_t count) {
      float* part = memory;
      memory += count;
      return part;
    };
    queries = take(std::int64_t{rows} * dim);
    scores = take(std::int64_t{rows} * kChunk);
    lane_totals = take(std::int64_t{rows} * kTile);
    decay = take(rows);
    floats = take(std::int64_t{kChunk} * dim);
    split = state_at(take(std::int64_t{rows} * (dim + 2)), rows);
    merged = state_at(take(std::int64_t{rows} * (dim + 2)), rows);
  }
};

TRIVET_INLINE void clear(State state, int rows, int dim) {
  for (int r = 0; r < rows; ++r) state.highest[r] = kLowest;
  std::memset(state.total, 0, rows * sizeof(float));
  std::memset(state.values, 0, sizeof(float) * rows * dim);
}

void merge(State into, State from, int rows, int dim) {
  for (int r = 0; r < rows; ++r) {
    const float highest = into.highest[r] > from.highest[r] ? into.highest[r] : from.highest[r];
    const float a = exp_negative(into.highest[r] - highest), b = exp_negative(from.highest[r] - highest);
    into.highest[r] = highest;
    into.total[r] = into.total[r] * a + from.total[r] * b;
    float* values = into.values + std::int64_t{r} * dim;
    const float* added = from.values + std::int64_t{r} * dim;
    for (int i = 0; i < dim; i += kLanes) store(values + i, load(values + i) * a + load(added + i) * b);
  }
}

// Row r is query head r % group of token r / group.
void finish(const AttentionCall& call, const AttentionItem& item, int kv_head, State state) {
  const int group = call.shape.group(), width = call.shape.head_dim, dim = call.cache.dim;
  for (int r = 0; r < item.tokens * group; ++r) {
    const int head = kv_head * group + r % group;
    float factor = 1.0f / state.total[r];
    if (call.sinks != nullptr) {
      const float sink = call.sinks[head];
      const float highest = state.highest[r] > sink ? state.highest[r] : sink;
      const float scaled = exp_negative(state.highest[r] - highest);
      factor = scaled / (state.total[r] * scaled + exp_negative(sink - highest));
    }
    float* y = call.y + (item.row + r / group) * call.ldy + std::int64_t{head} * width;
    const float* values = state.values + std::int64_t{r} * dim;
    for (int i = 0; i < width; i += kLanes) store(y + i, load(values + i) * factor, width - i);
  }
}

// scores[r][t] = queries[r] . keys[t] for R rows and N tiles of keys; every score is one chain over the
// columns.
template <int R, int N>
void score_block(const float* queries, const float* const* tiles, int dim, float* scores) {
  Vec sums[R][2 * N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < 2 * N; ++n) sums[r][n] = Vec{};
  }
  for (int d = 0; d < dim; ++d, queries += R) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const float* column = tiles[n] + std::int64_t{d} * kTile;
      const Vec low = load(column), high = load(column + kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec query = broadcast(queries[r]);
        sums[r][2 * n] = madd(query, low, sums[r][2 * n]);
        sums[r][2 * n + 1] = madd(query, high, sums[r][2 * n + 1]);
        pin(sums[r][2 * n]);
        pin(sums[r][2 * n + 1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < 2 * N; ++n) store(scores + r * kChunk + n * kLanes, sums[r][n]);
  }
}

// This and weigh_rows stay functions of their own: inlined into their one caller, measured, they spill
// registers and take half as long again.
template <int R>
[[gnu::noinline]] void score_rows(const float* queries, const float* const* tiles, int count, int dim,
                                  float* scores) {
  // Enough independent sums to hide the latency, few enough to stay in registers.
  constexpr int N = R == 1 ? 4 : (R <= 3 ? 2 : 1);
  int n = 0;
  for (; n + N <= count; n += N) score_block<R, N>(queries, tiles + n, dim, scores + n * kTile);
  for (; n < count; ++n) score_block<R, 1>(queries, tiles + n, dim, scores + n * kTile);
}

// values[r] = values[r] * decay[r] + sum_t weights[r][t] * V[t] for R rows and C vectors of columns.
template <int R, int C>
void weigh_block(const float* weights, const float* decay, const float* const* tiles, int tokens, int dim,
                 float* values) {
  Vec sums[R][C];
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) sums[r][c] = load(values + std::int64_t{r} * dim + c * kLanes) * decay[r];
  }
  for (int begin = 0; begin < tokens; begin += kTile) {
    const float* row = tiles[begin / kTile];
    const int end = begin + kTile < tokens ? begin + kTile : tokens;
    for (int t = begin; t < end; ++t, row += dim) {
      Vec v[C];
      for (int c = 0; c < C; ++c) v[c] = load(row + c * kLanes);
      for (int r = 0; r < R; ++r) {
        const Vec weight = broadcast(weights[r * kChunk + t]);
        for (int c = 0; c < C; ++c) sums[r][c] = madd(weight, v[c], sums[r][c]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) store(values + std::int64_t{r} * dim + c * kLanes, sums[r][c]);
  }
}

template <int R>
[[gnu::noinline]] void weigh_rows(const float* weights, const float* decay, const float* const* tiles,
                                  int tokens, int dim, float* values) {
  constexpr int C = R == 1 ? 8 : R <= 3 ? 4 : 2;
  const float* columns[kChunkTiles];
  int i = 0;
  const auto seek = [&] {
    for (int n = 0; n * kTile < tokens; ++n) columns[n] = tiles[n] + i;
  };
  for (; i + C * kLanes <= dim; i += C * kLanes) {
    seek();
    weigh_block<R, C>(weights, decay, columns, tokens, dim, values + i);
  }
  for (; i < dim; i += kLanes) {
    seek();
    weigh_block<R, 1>(weights, decay, columns, tokens, dim, values + i);
  }
}

// Calls f(integral_constant<count>, first) for blocks of at most six rows.
template <class F>
TRIVET_INLINE void for_row_blocks(int rows, F&& f) {
  for (int r = 0; r < rows;) {
    const int left = rows - r;
    const int count = left >= 12 || left == 6 ? 6 : left > 6 ? (left + 1) / 2 : left;
    switch (count) {
      case 1:
        f.template operator()<1>(r);
        break;
      case 2:
        f.template operator()<2>(r);
        break;
      case 3:
        f.template operator()<3>(r);
        break;
      case 4:
        f.template operator()<4>(r);
        break;
      case 5:
        f.template operator()<5>(r);
        break;
      default:
        f.template operator()<6>(r);
        break;
    }
    r += count;
  }
}

// Turns row r's scores of the tokens [begin, begin + count) into weights, and returns the decay of what was
// summed before. The row sees positions [lowest, position].
TRIVET_INLINE float soften(const AttentionShape& shape, float* scores, int begin, int count, int lowest,
                           int position, float& highest, float* lane_totals) {
  const IntVec lanes = {0, 1, 2, 3, 4, 5, 6, 7};
  const bool masked = begin < lowest || begin + count - 1 > position;
  Vec top = broadcast(kLowest);
  for (int i = 0; i < count; i += kLanes) {
    Vec score = load(scores + i);
    if (shape.softcap != 0.0f) score = tanh(score / shape.softcap) * shape.softcap;
    if (masked) {
      const IntVec at = lanes + (begin + i);
      score = (at < lowest) | (at > position) ? broadcast(-__builtin_inff()) : score;
    }
    store(scores + i, score);
    top = max(score, top);
  }
  const float above = max(top);
  const float next = above > highest ? above : highest;
  const float decay = exp_negative(highest - next);
  highest = next;
  for (int half = 0; half < kTile; half += kLanes) {
    Vec total = load(lane_totals + half) * decay;
    for (int i = half; i < count; i += kTile) {
      const Vec weight = exp_negative(load(scores + i) - next);
      store(scores + i, weight);
      total += weight;
    }
    store(lane_totals + half, total);
  }
  return decay;
}

// The tiles of up to kChunk tokens from `begin` on.
struct Chunk {
  int begin, tiles;
  TilePart keys[kChunkTiles], values[kChunkTiles];
};

void attend_chunk(const AttentionCall& call, const AttentionItem& item, const Scratch& scratch,
                  const Chunk& chunk) {
  const int group = call.shape.group(), rows = item.tokens * group, dim = call.cache.dim;
  const auto keys = tile_kind(call.cache.keys.type).keys;
  const auto values = tile_kind(call.cache.values.type).values;
  const float* floats[kChunkTiles];
  for (int n = 0; n < chunk.tiles; ++n) {
    floats[n] = keys(chunk.keys[n], dim, scratch.floats + std::int64_t{n} * dim * kTile);
  }
  for_row_blocks(rows, [&]<int R>(int r) {
    score_rows<R>(scratch.queries + std::int64_t{r} * dim, floats, chunk.tiles, dim,
                  scratch.scores + r * kChunk);
  });
  for (int r = 0; r < rows; ++r) {
    const int position = item.position + r / group;
    const int lowest = call.shape.window == 0 ? 0 : position - call.shape.window + 1;
    scratch.decay[r] = soften(call.shape, scratch.scores + r * kChunk, chunk.begin, chunk.tiles * kTile,
                              lowest, position, scratch.split.highest[r], scratch.lane_totals + r * kTile);
  }
  for (int n = 0; n < chunk.tiles; ++n) {
    floats[n] = values(chunk.values[n], dim, scratch.floats + std::int64_t{n} * dim * kTile);
  }
  // No value after the last query's token is used: those places may hold another sequence's leavings.
  const int seen = item.position + item.tokens - chunk.begin;
  const int tokens = seen < chunk.tiles * kTile ? seen : chunk.tiles * kTile;
  for_row_blocks(rows, [&]<int R>(int r) {
    weigh_rows<R>(scratch.scores + r * kChunk, scratch.decay + r, floats, tokens, dim,
                  scratch.split.values + std::int64_t{r} * dim);
  });
}

void attend_split(const AttentionCall& call, const AttentionItem& item, int kv_head, const Scratch& scratch,
                  int split) {
  const int rows = item.tokens * call.shape.group(), dim = call.cache.dim;
  clear(scratch.split, rows, dim);
  std::memset(scratch.lane_totals, 0, sizeof(float) * rows * kTile);
  const int last = item.position + item.tokens - 1;
  const int window = call.shape.window;
  const int first = window == 0 || item.position < window ? 0 : item.position - window + 1;
  const int end = last < (split + 1) * kSplit ? last + 1 : (split + 1) * kSplit;
  const auto part = [&](int position) {
    const std::int64_t block = item.blocks[position / call.block_size];
    const std::int64_t tile = block * (call.block_size / kTile) + position % call.block_size / kTile;
    return call.cache.part(tile, kv_head);
  };
  for (int start = split * kSplit; start < end; start += kChunk) {
    if (start + kChunk <= first) continue;
    Chunk chunk = {first > start ? first / kTile * kTile : start, 0, {}, {}};
    for (int p = chunk.begin; p < start + kChunk && p <= last; p += kTile, ++chunk.tiles) {
      const std::int64_t at = part(p), next = part(p + kChunk <= last ? p + kChunk : p);
      chunk.keys[chunk.tiles] = {call.cache.keys.part(at), call.cache.keys.part(next)};
      chunk.values[chunk.tiles] = {call.cache.values.part(at), call.cache.values.part(next)};
    }
    attend_chunk(call, item, scratch, chunk);
  }
  for (int r = 0; r < rows; ++r) {
    scratch.split.total[r] =
        sum(load(scratch.lane_totals + r * kTile) + load(scratch.lane_totals + r * kTile + kLanes));
  }
}

void load_queries(const AttentionCall& call, const AttentionItem& item, int kv_head, float* queries) {
  const int group = call.shape.group(), width = call.shape.head_dim, dim = call.cache.dim;
  for_row_blocks(item.tokens * group, [&]<int R>(int first) {
    float* block = queries + std::int64_t{first} * dim;
    for (int r = 0; r < R; ++r) {
      const int token = (first + r) / group, head = kv_head * group + (first + r) % group;
      const float* q = call.q + (item.row + token) * call.ldq + std::int64_t{head} * width;
      for (int d = 0; d < dim; ++d) block[d * R + r] = d < width ? q[d] * call.shape.scale : 0.0f;
    }
  });
}

void attend(const AttentionCall& call, const AttentionItem& item, int kv_head, float* memory,
            float* partials) {
  const int rows = item.tokens * call.shape.group(), dim = call.cache.dim;
  Scratch scratch(memory, rows, dim);
  load_queries(call, item, kv_head, scratch.queries);
  if (partials == nullptr) clear(scratch.merged, rows, dim);
  for (int split = item.split_begin; split < item.split_end; ++split) {
    if (partials != nullptr) {
      scratch.split = state_at(partials, rows);
      partials += attention_partial_floats(call.shape);
    }
    attend_split(call, item, kv_head, scratch, split);
    if (partials == nullptr) merge(scratch.merged, scratch.split, rows, dim);
  }
  if (partials == nullptr) finish(call, item, kv_head, scratch.merged);
}

void combine(const AttentionCall& call, const AttentionItem& item, int kv_head, const float* partials,
             int splits, float* memory) {
  const int rows = item.tokens * call.shape.group(), dim = call.cache.dim;
  const State merged = Scratch(memory, rows, dim).merged;
  clear(merged, rows, dim);
  for (int split = 0; split < splits; ++split, partials += attention_partial_floats(call.shape)) {
    merge(merged, state_at(const_cast<float*>(partials), rows), rows, dim);
  }
  finish(call, item, kv_head, merged);
}

constexpr AttentionKernels kKernels = {store_token, attend, combine};

}  // namespace
}  // namespace trivet

// The running softmax of an item's rows, for one instruction set; included by the sources that compile it.
#pragma once

#include "attention/attention.h"
#include "attention/tile.h"
#include "ops/simd.h"

namespace trivet {
namespace {

constexpr int kChunk = AttentionKernels::kChunk;
constexpr int kSplit = AttentionKernels::kSplit;
constexpr int kChunkTiles = kChunk / kTile;
constexpr int kRowTile = AttentionKernels::kRowTile;

// Exponentials are powers of two: scores, and all that is compared with them, have this factor.
constexpr float kLog2E = 1.44269504088896341f;

// Stands for -infinity where differences are taken: far below any score, yet its difference with itself is 0.
constexpr float kLowest = -1e30f;

TRIVET_INLINE float exp2_negative(float x) { return exp2_negative(broadcast(x))[0]; }

// The tiles of up to kChunk tokens from `begin` on.
struct Chunk {
  int begin, tiles;
  TilePart keys[kChunkTiles], values[kChunkTiles];

  int end() const { return begin + tiles * kTile; }
};

// The rows of an item for one KV head: row r is query head r % group of token r / group.
struct QueryRows {
  const AttentionCall& call;
  const AttentionItem& item;
  int kv_head;

  int count() const { return item.tokens * call.shape.group(); }
  int dim() const { return call.cache.dim; }
  int head(int r) const { return kv_head * call.shape.group() + r % call.shape.group(); }
  int token(int r) const { return r / call.shape.group(); }
  int position(int r) const { return item.position + token(r); }
  // Of queries; a cap is that of scores without kLog2E.
  float scale() const { return call.shape.softcap == 0.0f ? call.shape.scale * kLog2E : call.shape.scale; }
  const float* query(int r) const {
    return call.q + (item.row + token(r)) * call.ldq + std::int64_t{head(r)} * call.shape.head_dim;
  }
  float* result(int r) const {
    return call.y + (item.row + token(r)) * call.ldy + std::int64_t{head(r)} * call.shape.head_dim;
  }

  // Of a chunk, by any of the rows [first, end). No value after the last token is used: those places may hold
  // another sequence's leavings.
  int tokens_seen(int first, int end, const Chunk& chunk) const {
    const int last = (end < count() ? end : count()) - 1, window = call.shape.window;
    const int seen = position(last) + 1 - chunk.begin, all = chunk.tiles * kTile;
    if (seen <= 0 || (window != 0 && chunk.end() <= position(first) - window + 1)) return 0;
    return seen < all ? seen : all;
  }

  // Tiles that these are in.
  int tiles_seen(int first, int end, const Chunk& chunk) const {
    return (tokens_seen(first, end, chunk) + kTile - 1) / kTile;
  }

  // Whether each of the rows [first, end) sees all of the first tiles of a chunk.
  bool all_see(int first, int end, const Chunk& chunk, int tiles) const {
    const int window = call.shape.window;
    return chunk.begin + tiles * kTile - 1 <= position(first) &&
           (window == 0 || chunk.begin > position(end - 1) - window);
  }
};

// A running softmax for each row: the weighted sum of values [dim], the maximum and the sum of exponentials.
struct State {
  float* values;
  float* highest;
  float* total;
};

TRIVET_INLINE State state_at(float* memory, int rows, int dim) {
  const std::int64_t padded = AttentionKernels::padded(rows);
  return {memory, memory + padded * dim, memory + padded * (dim + 1)};
}

TRIVET_INLINE void clear(State state, int rows, int dim) {
  for (int r = 0; r < AttentionKernels::padded(rows); ++r) state.highest[r] = kLowest;
  std::memset(state.total, 0, rows * sizeof(float));
  std::memset(state.values, 0, sizeof(float) * rows * dim);
}

void merge(State into, State from, int rows, int dim) {
  for (int r = 0; r < rows; ++r) {
    const float highest = into.highest[r] > from.highest[r] ? into.highest[r] : from.highest[r];
    const float a = exp2_negative(into.highest[r] - highest), b = exp2_negative(from.highest[r] - highest);
    into.highest[r] = highest;
    into.total[r] = into.total[r] * a + from.total[r] * b;
    float* values = into.values + std::int64_t{r} * dim;
    const float* added = from.values + std::int64_t{r} * dim;
    for (int i = 0; i < dim; i += kLanes) store(values + i, load(values + i) * a + load(added + i) * b);
  }
}

void finish(const QueryRows& rows, State state) {
  const int width = rows.call.shape.head_dim, dim = rows.dim();
  for (int r = 0; r < rows.count(); ++r) {
    float factor = 1.0f / state.total[r];
    if (rows.call.sinks != nullptr) {
      const float sink = rows.call.sinks[rows.head(r)] * kLog2E;
      const float highest = state.highest[r] > sink ? state.highest[r] : sink;
      const float scaled = exp2_negative(state.highest[r] - highest);
      factor = scaled / (state.total[r] * scaled + exp2_negative(sink - highest));
    }
    float* y = rows.result(r);
    const float* values = state.values + std::int64_t{r} * dim;
    // 0 is added so that -0 is 0, as it is where splits have been merged.
    for (int i = 0; i < width; i += kLanes) store(y + i, load(values + i) * factor + 0.0f, width - i);
  }
}

// Applies cap and mask to row r's scores of the first tiles of a chunk, tile n's at scores + n * stride;
// returns their maxima.
TRIVET_INLINE Vec limit(const QueryRows& rows, int r, const Chunk& chunk, int tiles, float* scores,
                        std::int64_t stride) {
  const AttentionShape& shape = rows.call.shape;
  const int position = rows.position(r), lowest = shape.window == 0 ? 0 : position - shape.window + 1;
  Vec top = broadcast(kLowest);
  for (int n = 0; n < tiles; ++n) {
    for (int i = 0; i < kTile; i += kLanes) {
      float* at = scores + n * stride + i;
      Vec score = load(at);
      if (shape.softcap != 0.0f) score = tanh(score / shape.softcap) * (shape.softcap * kLog2E);
      const IntVec key = lane_numbers() + (chunk.begin + n * kTile + i);
      score = (key < lowest) | (key > position) ? broadcast(-__builtin_inff()) : score;
      store(at, score);
      top = max(score, top);
    }
  }
  return top;
}

// Takes scores of a tile of rows, from `first` on, and the first tiles of a chunk into the rows' maxima;
// decay[r] is that of what its row r summed before. Scores are as for limit(), row r's at scores + r *
// row_stride.
TRIVET_INLINE void raise(const QueryRows& rows, int first, const Chunk& chunk, int tiles, float* scores,
                         std::int64_t row_stride, std::int64_t stride, float* highest, float* decay) {
  const int count = rows.count() - first < kRowTile ? rows.count() - first : kRowTile;
  const bool plain = rows.call.shape.softcap == 0.0f && rows.all_see(first, first + count, chunk, tiles);
  alignas(64) float above[kRowTile];
  for (int r = 0; r < kRowTile; ++r) above[r] = kLowest;
  for (int r = 0; r < count; ++r, scores += row_stride) {
    Vec top = broadcast(kLowest);
    if (plain) {
      for (int n = 0; n < tiles; ++n) {
        for (int i = 0; i < kTile; i += kLanes) top = max(load(scores + n * stride + i), top);
      }
    } else {
      top = limit(rows, first + r, chunk, tiles, scores, stride);
    }
    above[r] = max(top);
  }
  for (int r = 0; r < kRowTile; r += kLanes) {
    const Vec before = load(highest + r), now = max(load(above + r), before);
    store(decay + r, exp2_negative(before - now));
    store(highest + r, now);
  }
}

// Calls put(tile, lane, weights) with what a row's scores of a chunk become, to 13 bits with kCoarse;
// lane_totals [kTile] has the sums of weights.
template <bool kCoarse = false, class Put>
TRIVET_INLINE void soften(int tiles, const float* scores, std::int64_t stride, float highest, float decay,
                          float* lane_totals, Put&& put) {
  for (int i = 0; i < kTile; i += kLanes) {
    Vec total = load(lane_totals + i) * decay;
#pragma GCC unroll 4
    for (int n = 0; n < tiles; ++n) {
      const Vec below = load(scores + n * stride + i) - highest;
      const Vec weights = kCoarse ? exp2_coarse(below) : exp2_negative(below);
      put(n, i, weights);
      total += weights;
    }
    store(lane_totals + i, total);
  }
}

}  // namespace
}  // namespace trivet

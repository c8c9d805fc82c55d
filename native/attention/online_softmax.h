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

// Stands for -infinity where differences are taken: far below any score, yet its difference with itself is 0.
constexpr float kLowest = -1e30f;

TRIVET_INLINE float exp_negative(float x) { return exp_negative(broadcast(x))[0]; }

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
  const float* query(int r) const {
    return call.q + (item.row + token(r)) * call.ldq + std::int64_t{head(r)} * call.shape.head_dim;
  }
  float* result(int r) const {
    return call.y + (item.row + token(r)) * call.ldy + std::int64_t{head(r)} * call.shape.head_dim;
  }

  // Of a chunk. No value after the last query's token is used: those places may hold another sequence's
  // leavings.
  int tokens_seen(const Chunk& chunk) const {
    const int seen = item.position + item.tokens;
    return (seen < chunk.end() ? seen : chunk.end()) - chunk.begin;
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

void finish(const QueryRows& rows, State state) {
  const int width = rows.call.shape.head_dim, dim = rows.dim();
  for (int r = 0; r < rows.count(); ++r) {
    float factor = 1.0f / state.total[r];
    if (rows.call.sinks != nullptr) {
      const float sink = rows.call.sinks[rows.head(r)];
      const float highest = state.highest[r] > sink ? state.highest[r] : sink;
      const float scaled = exp_negative(state.highest[r] - highest);
      factor = scaled / (state.total[r] * scaled + exp_negative(sink - highest));
    }
    float* y = rows.result(r);
    const float* values = state.values + std::int64_t{r} * dim;
    for (int i = 0; i < width; i += kLanes) store(y + i, load(values + i) * factor, width - i);
  }
}

// Turns row r's scores of a chunk into weights, and returns the decay of what was summed before. Tile n's are
// at scores + n * stride; lane_totals [kTile] has the sums of weights.
TRIVET_INLINE float soften(const QueryRows& rows, int r, const Chunk& chunk, float* scores,
                           std::int64_t stride, float& highest, float* lane_totals) {
  const AttentionShape& shape = rows.call.shape;
  const int position = rows.position(r), lowest = shape.window == 0 ? 0 : position - shape.window + 1;
  const bool masked = chunk.begin < lowest || chunk.end() - 1 > position;
  Vec top = broadcast(kLowest);
  for (int n = 0; n < chunk.tiles; ++n) {
    for (int i = 0; i < kTile; i += kLanes) {
      float* at = scores + n * stride + i;
      Vec score = load(at);
      if (shape.softcap != 0.0f) score = tanh(score / shape.softcap) * shape.softcap;
      if (masked) {
        const IntVec key = lane_numbers() + (chunk.begin + n * kTile + i);
        score = (key < lowest) | (key > position) ? broadcast(-__builtin_inff()) : score;
      }
      store(at, score);
      top = max(score, top);
    }
  }
  const float above = max(top);
  const float next = above > highest ? above : highest;
  const float decay = exp_negative(highest - next);
  highest = next;
  for (int i = 0; i < kTile; i += kLanes) {
    Vec total = load(lane_totals + i) * decay;
    for (int n = 0; n < chunk.tiles; ++n) {
      float* at = scores + n * stride + i;
      const Vec weight = exp_negative(load(at) - next);
      store(at, weight);
      total += weight;
    }
    store(lane_totals + i, total);
  }
  return decay;
}

}  // namespace
}  // namespace trivet

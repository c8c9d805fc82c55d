// Causal attention over the paged cache, grouped by KV head: one pass over keys and values serves all query
// heads of the group.
//
// Order of the float operations, which makes a row's result independent of batch, chunking, block size and
// threads: positions are cut into splits of kSplit and those into chunks of kChunk, counted from position 0
// of the sequence. Within a split an online softmax takes the chunks in ascending order; the splits' results
// are merged in ascending order. What a row does not see takes part with probability 0, which changes
// nothing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "attention/cache.h"
#include "isa.h"
#include "numerics.h"

namespace trivet {

struct AttentionShape {
  int heads, kv_heads, head_dim;
  float scale;
  int window;     // positions that a token sees, its own included; 0 for all
  float softcap;  // 0 for none

  int group() const { return heads / kv_heads; }
  bool operator==(const AttentionShape&) const = default;
};

// What attention does for one layer in one step.
struct AttentionCall {
  AttentionShape shape;
  CacheLayer cache;
  int block_size;
  const float* q;  // [tokens][heads * head_dim], row stride ldq
  std::int64_t ldq;
  const float* sinks;  // [heads] or null
  float* y;            // as q, row stride ldy
  std::int64_t ldy;
};

// `tokens` consecutive tokens of one sequence, the first at row `row` of the step and at `position` of the
// sequence, against the splits [split_begin, split_end).
struct AttentionItem {
  int row, tokens, position;
  const std::int32_t* blocks;
  int split_begin, split_end;
  int tile;  // index of the query tile that shares its splits among items, -1 when this item has all of them
};

struct AttentionKernels {
  static constexpr int kChunk = 64, kSplit = 512;
  // The fewest query rows (tokens x group) of an item for which to read, and to convert, keys and values is
  // not the larger part.
  static constexpr int kLeastRows = 48;
  // Memory of rows is for whole tiles of as many rows.
  static constexpr int kRowTile = 16;

  static constexpr int padded(int rows) { return (rows + kRowTile - 1) / kRowTile * kRowTile; }

  // Writes one token's K and V [kv_heads * head_dim] to its place in the cache.
  void (*store)(const CacheLayer& cache, std::int64_t tile, int lane, const float* k, const float* v);

  // Attends for one KV head. With `partials` null, writes y; else the state of each split, see
  // attention_partial_floats(). Of `scratch` a thread needs scratch_floats(shape); both are aligned to 64
  // bytes.
  void (*attend)(const AttentionCall& call, const AttentionItem& item, int kv_head, float* scratch,
                 float* partials);

  // Merges the states of `splits` splits, into the first of them, and writes y.
  void (*combine)(const AttentionCall& call, const AttentionItem& item, int kv_head, float* partials,
                  int splits);

  std::int64_t (*scratch_floats)(const AttentionShape& shape);

  // The most rows of an item, times their columns, whose scratch is not too large for caches.
  int row_columns;

  static int rows(int row_columns, const AttentionShape& shape) {
    return std::max({row_columns / CacheLayer::padded(shape.head_dim), kLeastRows, shape.group()});
  }
  int rows(const AttentionShape& shape) const { return rows(row_columns, shape); }
};

// With fast numerics and a cache whose keys and values are of one type, but not float32, AVX-512 BF16 and AMX
// round to bfloat16 all that more than single tokens multiply.
const AttentionKernels& attention_kernels(CacheTypes types, Numerics numerics, Isa isa = active_isa());

// Floats of the state of one split of an item of so many tokens and one KV head, a multiple of 16.
std::int64_t attention_partial_floats(const AttentionShape& shape, int tokens);

}  // namespace trivet

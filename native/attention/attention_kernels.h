// Attention for one instruction set; included by the sources that compile it. A method (VectorAttention,
// TileAttention, ChainAttention) says how a chunk's scores and weighted values are computed.
#pragma once

#include <algorithm>

#include "attention/online_softmax.h"

namespace trivet {
namespace {

template <class Method>
void attend_split(const QueryRows& rows, Method& method, int split, State state, float* lane_totals) {
  const AttentionCall& call = rows.call;
  const AttentionItem& item = rows.item;
  clear(state, rows.count(), rows.dim());
  std::memset(lane_totals, 0, sizeof(float) * rows.count() * kTile);
  const int last = item.position + item.tokens - 1;
  const int window = call.shape.window;
  const int first = window == 0 || item.position < window ? 0 : item.position - window + 1;
  const int end = last < (split + 1) * kSplit ? last + 1 : (split + 1) * kSplit;
  const auto part = [&](int position, int kv_head) {
    const std::int64_t block = item.blocks[position / call.block_size];
    const std::int64_t tile = block * (call.block_size / kTile) + position % call.block_size / kTile;
    return call.cache.part(tile, kv_head);
  };
  // What will be read kChunk tokens later: after the last ones, the first ones of the next head.
  const int begin = first > split * kSplit ? first / kTile * kTile : split * kSplit;
  const auto later = [&](int position) {
    if (position + kChunk <= last) return part(position + kChunk, rows.kv_head);
    const int again = begin + position + kChunk - (last / kTile + 1) * kTile;
    const bool more = again <= last && rows.kv_head + 1 < call.shape.kv_heads;
    return more ? part(again, rows.kv_head + 1) : part(position, rows.kv_head);
  };
  for (int start = split * kSplit; start < end; start += kChunk) {
    if (start + kChunk <= first) continue;
    Chunk chunk = {first > start ? first / kTile * kTile : start, 0, {}, {}};
    for (int p = chunk.begin; p < start + kChunk && p <= last; p += kTile, ++chunk.tiles) {
      const std::int64_t at = part(p, rows.kv_head), next = later(p);
      chunk.keys[chunk.tiles] = {call.cache.keys.part(at), call.cache.keys.part(next)};
      chunk.values[chunk.tiles] = {call.cache.values.part(at), call.cache.values.part(next)};
    }
    method.attend(chunk, state, lane_totals);
  }
  for (int r = 0; r < rows.count(); ++r) {
    Vec totals = load(lane_totals + r * kTile);
    if constexpr (kLanes < kTile) totals += load(lane_totals + r * kTile + kLanes);
    state.total[r] = sum(totals);
  }
}

// Scratch beside a Method's.
struct States {
  State split, merged;
  float* lane_totals;  // [rows][kTile]
  float* rest;

  static std::int64_t floats(std::int64_t rows, std::int64_t dim) { return rows * (2 * (dim + 2) + kTile); }

  States(float* scratch, int rows, int dim) {
    const std::int64_t padded = AttentionKernels::padded(rows);
    split = state_at(scratch, rows, dim);
    merged = state_at(scratch + padded * (dim + 2), rows, dim);
    lane_totals = scratch + 2 * padded * (dim + 2);
    rest = lane_totals + padded * kTile;
  }
};

template <class Method>
void attend(const AttentionCall& call, const AttentionItem& item, int kv_head, float* scratch,
            float* partials) {
  const QueryRows rows{call, item, kv_head};
  States states(scratch, rows.count(), rows.dim());
  Method method(rows, states.rest);
  for (int split = item.split_begin; split < item.split_end; ++split) {
    const bool first = split == item.split_begin;
    State state = first ? states.merged : states.split;
    if (partials != nullptr) {
      state = state_at(partials, rows.count(), rows.dim());
      partials += attention_partial_floats(call.shape, item.tokens);
    }
    attend_split(rows, method, split, state, states.lane_totals);
    if (partials == nullptr && !first) merge(states.merged, state, rows.count(), rows.dim());
  }
  if (partials == nullptr) finish(rows, states.merged);
}

void combine(const AttentionCall& call, const AttentionItem& item, int kv_head, float* partials, int splits) {
  const QueryRows rows{call, item, kv_head};
  const State merged = state_at(partials, rows.count(), rows.dim());
  for (int split = 1; split < splits; ++split) {
    partials += attention_partial_floats(call.shape, item.tokens);
    merge(merged, state_at(partials, rows.count(), rows.dim()), rows.count(), rows.dim());
  }
  finish(rows, merged);
}

// By Method, or by Few what that takes.
template <class Method, class Few>
void attend_either(const AttentionCall& call, const AttentionItem& item, int kv_head, float* scratch,
                   float* partials) {
  if (Few::takes(item, call.shape)) return attend<Few>(call, item, kv_head, scratch, partials);
  attend<Method>(call, item, kv_head, scratch, partials);
}

template <class... Methods>
std::int64_t scratch_floats(int row_columns, const AttentionShape& shape) {
  const std::int64_t rows = AttentionKernels::padded(AttentionKernels::rows(row_columns, shape)),
                     dim = CacheLayer::padded(shape.head_dim);
  return States::floats(rows, dim) + std::max({Methods::scratch_floats(rows, dim)...});
}

template <class Method, class Few = void>
constexpr AttentionKernels kKernels = {
    store_token, attend_either<Method, Few>, combine,
    [](const AttentionShape& shape) { return scratch_floats<Method, Few>(Method::kRowColumns, shape); },
    Method::kRowColumns};

template <class Method>
constexpr AttentionKernels kKernels<Method, void> = {
    store_token, attend<Method>, combine,
    [](const AttentionShape& shape) { return scratch_floats<Method>(Method::kRowColumns, shape); },
    Method::kRowColumns};

}  // namespace
}  // namespace trivet

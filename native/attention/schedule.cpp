#include "attention/schedule.h"

#include <algorithm>

namespace trivet {
namespace {

// Pieces of work per thread that balance well enough.
constexpr int kPieces = 4;

// Items per thread that do so with all their heads.
constexpr int kItems = 8;

constexpr int kSplit = AttentionKernels::kSplit;

std::int64_t lines(std::int64_t floats) { return (floats + 15) / 16; }

// Queries times keys.
std::int64_t cost(const AttentionItem& item) {
  const int seen = std::min(item.position + item.tokens, item.split_end * kSplit);
  return std::int64_t{item.tokens} * (seen - item.split_begin * kSplit);
}

}  // namespace

AttentionSchedule::AttentionSchedule(const AttentionKernels& kernels, const AttentionShape& shape,
                                     int threads)
    : kernels_(kernels), shape_(shape) {
  scratch_.assign(threads, std::vector<Line>(lines(kernels.scratch_floats(shape))));
}

void AttentionSchedule::build(const AttentionSequences& sequences, int threads) {
  items_.clear();
  tiles_.clear();
  partial_floats_ = 0;
  const std::int64_t queries = sequences.count > 0 ? sequences.query_starts[sequences.count] : 0;
  int rows = kernels_.rows(shape_);
  while (rows >= 2 * AttentionKernels::kLeastRows &&
         queries * shape_.heads < std::int64_t{threads} * kItems * rows) {
    rows /= 2;
  }
  // Of whole tiles, if that can be: where items end, fewer tiles of keys are then seen in part.
  int most = std::max(1, rows / shape_.group());
  if (most > CacheLayer::kTile) most -= most % CacheLayer::kTile;
  std::vector<AttentionItem> whole;
  std::int64_t total = 0;
  for (int s = 0; s < sequences.count; ++s) {
    const std::int32_t* blocks = sequences.block_tables + std::int64_t{s} * sequences.table_width;
    const int end = sequences.query_starts[s + 1];
    for (int row = sequences.query_starts[s], tokens; row < end; row += tokens) {
      const int position = sequences.positions[row];
      tokens = std::min(most, end - row);
      const int first = shape_.window == 0 ? 0 : std::max(0, position - shape_.window + 1);
      whole.push_back(
          {row, tokens, position, blocks, first / kSplit, (position + tokens - 1) / kSplit + 1, -1});
      total += cost(whole.back());
    }
  }
  const std::int64_t limit = threads == 1 ? INT64_MAX : total * shape_.kv_heads / (threads * kPieces) + 1;
  for (const AttentionItem& item : whole) add_tile(item, limit);
  heads_ = std::ssize(items_) >= threads * kItems ? shape_.kv_heads : 1;
  share_out(threads);

  const std::size_t counters = tiles_.size() * shape_.kv_heads;
  if (counters > unfinished_size_) {
    unfinished_ = std::make_unique<std::atomic<int>[]>(counters);
    unfinished_size_ = counters;
  }
  for (std::size_t i = 0; i < counters; ++i) {
    unfinished_[i].store(tiles_[i / shape_.kv_heads].pieces, std::memory_order_relaxed);
  }
  if (std::ssize(partials_) < lines(partial_floats_)) partials_.resize(lines(partial_floats_));
}

void AttentionSchedule::add_tile(const AttentionItem& tile, std::int64_t cost_limit) {
  const int splits = tile.split_end - tile.split_begin;
  const int per_piece =
      static_cast<int>(std::clamp<std::int64_t>(cost_limit / tile.tokens / kSplit, 1, splits));
  if (splits <= per_piece) {
    items_.push_back(tile);
    return;
  }
  int pieces = 0;
  for (int split = tile.split_begin; split < tile.split_end; split += per_piece, ++pieces) {
    AttentionItem item = tile;
    item.split_begin = split;
    item.split_end = std::min(split + per_piece, tile.split_end);
    item.tile = static_cast<int>(tiles_.size());
    items_.push_back(item);
  }
  tiles_.push_back({tile.split_begin, splits, pieces, partial_floats_});
  partial_floats_ += splits * shape_.kv_heads * attention_partial_floats(shape_, tile.tokens);
}

void AttentionSchedule::share_out(int threads) {
  units_.clear();
  std::int64_t total = 0;
  for (int i = 0; i < std::ssize(items_); ++i) {
    for (int head = 0; head < shape_.kv_heads; head += heads_) units_.push_back({i, head});
    total += cost(items_[i]) * (shape_.kv_heads / heads_);
  }
  share_ends_.assign(1, 0);
  std::int64_t before = 0;
  for (std::size_t i = 0; i < units_.size(); ++i) {
    const std::int64_t of_unit = cost(items_[units_[i].item]);
    // A unit is whose share its middle lies in.
    while ((2 * before + of_unit) * threads >= 2 * total * std::ssize(share_ends_)) share_ends_.push_back(i);
    before += of_unit;
  }
  share_ends_.resize(threads + 1, units());
  for (int thread = 0; thread < threads; ++thread) {
    std::stable_sort(units_.begin() + share_ends_[thread], units_.begin() + share_ends_[thread + 1],
                     [&](Unit a, Unit b) { return cost(items_[a.item]) > cost(items_[b.item]); });
  }
}

void AttentionSchedule::execute(const AttentionCall& call, std::int64_t unit, int thread) {
  const auto [item, first] = units_[unit];
  for (int kv_head = first; kv_head < first + heads_; ++kv_head) {
    execute_head(call, items_[item], kv_head, thread);
  }
}

void AttentionSchedule::execute_head(const AttentionCall& call, const AttentionItem& item, int kv_head,
                                     int thread) {
  float* scratch = scratch_[thread].data()->floats;
  if (item.tile < 0) {
    kernels_.attend(call, item, kv_head, scratch, nullptr);
    return;
  }
  const Tile& tile = tiles_[item.tile];
  const std::int64_t state = attention_partial_floats(shape_, item.tokens);
  float* states = partials_.data()->floats + tile.partials + std::int64_t{kv_head} * tile.splits * state;
  const std::int64_t skipped = item.split_begin - tile.first_split;
  kernels_.attend(call, item, kv_head, scratch, states + skipped * state);
  std::atomic<int>& unfinished = unfinished_[std::int64_t{item.tile} * shape_.kv_heads + kv_head];
  if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    unfinished.store(tile.pieces, std::memory_order_relaxed);
    kernels_.combine(call, item, kv_head, states, tile.splits);
  }
}

}  // namespace trivet

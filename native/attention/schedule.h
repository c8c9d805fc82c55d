// How one step's attention is cut into items that threads claim.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "threads/team.h"

namespace trivet {

// The sequences of a step; see trivet/engine/plan.py.
struct AttentionSequences {
  int count;
  const std::int32_t* query_starts;
  const std::int32_t* positions;
  const std::int32_t* block_tables;
  int table_width;
};

// Serves every layer of one shape. Each sequence's queries are cut into tiles; where those are too few or too
// unequal for the threads, the long ones are cut again along the splits of their keys. That changes who
// computes a split and nothing else.
class AttentionSchedule {
 public:
  AttentionSchedule(const AttentionKernels& kernels, const AttentionShape& shape, int threads);

  // For `threads` of those it was made for.
  void build(const AttentionSequences& sequences, int threads);

  // Units of work of one layer: every item for every KV head, or for all of them, whose keys and values lie
  // beside one another.
  std::int64_t units() const { return static_cast<std::int64_t>(units_.size()); }

  // A thread's, the longest first. Shares take about as long, and go by rows as those of other steps do: a
  // thread has most of its queries in its cache, and then most of what is made of the results.
  Range share(int thread) const { return {share_ends_[thread], share_ends_[thread + 1]}; }

  // Executes one unit as `thread`; the one that finishes a tile's last split merges them.
  void execute(const AttentionCall& call, std::int64_t unit, int thread);

  const AttentionShape& shape() const { return shape_; }

 private:
  // A query tile whose splits are shared among items.
  struct Tile {
    int first_split, splits, pieces;
    std::int64_t partials;  // floats before its first state
  };

  struct Unit {
    int item, first_head;
  };

  void add_tile(const AttentionItem& tile, std::int64_t cost_limit);
  void share_out(int threads);
  void execute_head(const AttentionCall& call, const AttentionItem& item, int kv_head, int thread);

  struct alignas(64) Line {
    float floats[16];
  };

  const AttentionKernels& kernels_;
  AttentionShape shape_;
  std::vector<std::vector<Line>> scratch_;  // [threads]
  std::vector<AttentionItem> items_;
  int heads_ = 1;  // KV heads of a unit
  std::vector<Unit> units_;
  std::vector<std::int64_t> share_ends_;  // 0, and where each thread's end
  std::vector<Tile> tiles_;
  std::unique_ptr<std::atomic<int>[]> unfinished_;  // [tiles][kv_heads] pieces; back to all once merged
  std::size_t unfinished_size_ = 0;
  std::vector<Line> partials_;
  std::int64_t partial_floats_ = 0;
};

}  // namespace trivet

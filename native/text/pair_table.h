// Pairs of small integers to merges; filled once, then only read.
#pragma once

#include <cstdint>
#include <vector>

#include "pages.h"
#include "text/string_table.h"

namespace trivet {

struct RankedMerge {
  std::int32_t rank;
  std::int32_t symbol;  // what the pair makes
};

// Open addressing, at most half full.
class PairTable {
 public:
  explicit PairTable(std::size_t pairs) {
    std::size_t size = 16;
    while (size < 2 * pairs + 2) size *= 2;
    slots_.resize(size);
  }

  // Keeps what is there already. No more pairs than the constructor was told may be added.
  void add(std::int32_t left, std::int32_t right, RankedMerge merge) {
    Slot& slot = slots_[place(left, right)];
    if (slot.left < 0) slot = {left, right, merge};
  }

  void prefetch(std::int32_t left, std::int32_t right) const {
    __builtin_prefetch(&slots_[home(left, right)]);
  }

  const RankedMerge* find(std::int32_t left, std::int32_t right) const {
    const Slot& slot = slots_[place(left, right)];
    return slot.left < 0 ? nullptr : &slot.merge;
  }

 private:
  struct Slot {
    std::int32_t left = -1, right = -1;
    RankedMerge merge{};
  };

  // Where the search for a pair begins.
  std::size_t home(std::int32_t left, std::int32_t right) const {
    return mix_bits(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right)) &
           (slots_.size() - 1);
  }

  // Where a pair is, or would go.
  std::size_t place(std::int32_t left, std::int32_t right) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = home(left, right);
    while (slots_[i].left >= 0 && (slots_[i].left != left || slots_[i].right != right)) i = (i + 1) & mask;
    return i;
  }

  std::vector<Slot, PageAllocator<Slot>> slots_;
};

}  // namespace trivet

// Greedy pair merging, which BPE and SentencePiece share: pieces of a text grow by joining neighbours, the
// best pair first and of equals the leftmost. O(n log n) in the number of pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <queue>
#include <string_view>
#include <vector>

namespace trivet {

constexpr std::int32_t kNone = -1;

struct Piece {
  std::string_view text;  // of the text being cut; empty once merged into the piece before
  std::int32_t id;        // what `find` returned for it
  std::int32_t prev, next;
};

struct Merge {
  double cost;  // the lowest goes first
  std::int32_t id;
};

inline void append_piece(std::vector<Piece>& pieces, std::string_view text, std::int32_t id) {
  const auto index = static_cast<std::int32_t>(pieces.size());
  if (index > 0) pieces.back().next = index;
  pieces.push_back({text, id, index - 1, kNone});
}

// Merges until nothing fits. find(const Piece& left, const Piece& right) returns the std::optional<Merge> of
// two neighbours, whose texts are adjacent in memory.
template <typename Find>
void merge_pairs(std::vector<Piece>& pieces, Find find) {
  struct Pair {
    double cost;
    std::int32_t left, right, id;
    std::size_t size;  // of both texts, to tell whether one of them has grown since
  };
  const auto worse = [](const Pair& a, const Pair& b) {
    return a.cost > b.cost || (a.cost == b.cost && a.left > b.left);
  };
  std::priority_queue<Pair, std::vector<Pair>, decltype(worse)> queue(worse);

  const auto consider = [&](std::int32_t left, std::int32_t right) {
    if (left == kNone || right == kNone) return;
    const Piece &a = pieces[left], &b = pieces[right];
    if (const std::optional<Merge> merge = find(a, b)) {
      queue.push({merge->cost, left, right, merge->id, a.text.size() + b.text.size()});
    }
  };
  for (std::size_t i = 1; i < pieces.size(); ++i) {
    consider(static_cast<std::int32_t>(i) - 1, static_cast<std::int32_t>(i));
  }
  while (!queue.empty()) {
    const Pair pair = queue.top();
    queue.pop();
    Piece &left = pieces[pair.left], &right = pieces[pair.right];
    if (left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != pair.size)
      continue;
    left.text = {left.text.data(), pair.size};
    left.id = pair.id;
    left.next = right.next;
    right.text = {};
    if (left.next != kNone) pieces[left.next].prev = pair.left;
    consider(left.prev, pair.left);
    consider(pair.left, left.next);
  }
}

// Bytes of the UTF-8 character that starts with `lead`; 1 for a byte that starts none.
inline std::size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace trivet

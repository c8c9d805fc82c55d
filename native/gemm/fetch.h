// Fetching of weights ahead of their use; V::prefetch says how far.
//
// Memory is read much faster where lines are asked for in their order and a few at a time: a burst fills the
// queue of outstanding loads, and what comes out of order defeats the processor's own fetching. So whatever
// order arithmetic takes a step's lines in, each of its parts asks for the next few.
#pragma once

#include <cstddef>

namespace trivet {
namespace {

// Part `part` of `parts` of the lines that `kBytes` from `begin` on touch.
template <class V, int kBytes>
[[gnu::always_inline]] inline void fetch_part(const void* begin, int part, int parts) {
  constexpr int kLines = (kBytes + 63) / 64;
  for (int i = (part * kLines + parts - 1) / parts; i * parts < (part + 1) * kLines; ++i) {
    V::prefetch(static_cast<const std::byte*>(begin) + 64 * i);
  }
}

// The same of kParts, where `part` is a constant in the end: no loop is left, which would part the code
// around it, so that constants are made anew behind it.
template <class V, int kBytes, int kParts>
[[gnu::always_inline]] inline void fetch_part(const void* begin, int part) {
  constexpr int kLines = (kBytes + 63) / 64, kMost = (kLines + kParts - 1) / kParts;
#pragma GCC unroll 8
  for (int i = 0; i < kMost; ++i) {
    const int line = (part * kLines + kParts - 1) / kParts + i;
    if (line * kParts < (part + 1) * kLines) V::prefetch(static_cast<const std::byte*>(begin) + 64 * line);
  }
}

}  // namespace
}  // namespace trivet

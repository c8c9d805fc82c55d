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
#pragma GCC unroll 8
  for (int i = (part * kLines + parts - 1) / parts; i * parts < (part + 1) * kLines; ++i) {
    V::prefetch(static_cast<const std::byte*>(begin) + 64 * i);
  }
}

}  // namespace
}  // namespace trivet

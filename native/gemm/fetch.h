// Fetching of weights ahead of their use; V::prefetch says how far.
//
// Memory is read much faster where lines are asked for in their order and a few at a time: a burst fills the
// queue of outstanding loads, and what comes out of order defeats the processor's own fetching. So whatever
// order arithmetic takes a step's lines in, each of its parts asks for the next few.
#pragma once

#include <cstddef>

namespace trivet {
namespace {

#ifdef __x86_64__

// To the L2 cache, which may wait for more of memory at a time than the L1 cache, then to that; so many bytes
// ahead of p. Compilers gather prefetches that they know as such, since these depend on nothing.
template <int kFar, int kNear>
inline void prefetch_twice(const void* p) {
  const auto* bytes = static_cast<const char*>(p);
  asm volatile("prefetcht1 %0" : : "m"(bytes[kFar]));
  asm volatile("prefetcht0 %0" : : "m"(bytes[kNear]));
}

#endif

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

// Loops of constant length, written out.
#pragma once

#include <utility>

namespace trivet {
namespace {

#define TRIVET_INLINE [[maybe_unused, gnu::always_inline]] inline

// Calls f(0), .., f(N - 1) with constants: an array that only these index is kept in registers, whatever else
// goes on in the loops around.
template <int N, class F>
TRIVET_INLINE void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>()), ...);
  }(std::make_integer_sequence<int, N>());
}

}  // namespace
}  // namespace trivet

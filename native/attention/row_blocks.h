// Rows in blocks whose sums stay in registers.
#pragma once

#include "unrolled.h"

namespace trivet {
namespace {

constexpr int kBlockRows = 6;

// Calls f<count>(first) for blocks of at most so many rows.
template <class F>
TRIVET_INLINE void for_row_blocks(int rows, F&& f) {
  for (int r = 0; r < rows;) {
    const int left = rows - r;
    const int count = left >= 2 * kBlockRows || left == kBlockRows ? kBlockRows
                      : left > kBlockRows                          ? (left + 1) / 2
                                                                   : left;
    switch (count) {
      case 1:
        f.template operator()<1>(r);
        break;
      case 2:
        f.template operator()<2>(r);
        break;
      case 3:
        f.template operator()<3>(r);
        break;
      case 4:
        f.template operator()<4>(r);
        break;
      case 5:
        f.template operator()<5>(r);
        break;
      default:
        f.template operator()<kBlockRows>(r);
        break;
    }
    r += count;
  }
}

}  // namespace
}  // namespace trivet

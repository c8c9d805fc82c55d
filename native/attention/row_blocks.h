// Rows in blocks whose sums stay in registers.
#pragma once

#include "unrolled.h"

namespace trivet {
namespace {

// Calls f<count>(first) for blocks of at most six rows.
template <class F>
TRIVET_INLINE void for_row_blocks(int rows, F&& f) {
  for (int r = 0; r < rows;) {
    const int left = rows - r;
    const int count = left >= 12 || left == 6 ? 6 : left > 6 ? (left + 1) / 2 : left;
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
        f.template operator()<6>(r);
        break;
    }
    r += count;
  }
}

}  // namespace
}  // namespace trivet

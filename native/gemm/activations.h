// Activation rows as the kernels read them: a row is a run of steps of 256 columns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trivet {

inline constexpr int kStep = 256;

// q[i] * scale is the value; |q| <= 127. A block with a value that is not finite has a NaN scale and q = 0,
// so that every product of its row is NaN. Columns past the end of the row are 0.

// One scale per 32 columns, and the sums of q over the first and over the last 16 of each.
struct alignas(64) ActivationStep32 {
  std::int8_t q[kStep];
  float scale[kStep / 32];
  std::int16_t sum16[2][kStep / 32];
};

// Minus kCenter times the sums of the first two and of the last two of every four of 16 columns, for kernels
// that have sums of 16 bits for these: what products with weights begin at that are kCenter too large.
inline constexpr int kCenter = 32;
struct CenterSums {
  std::int16_t first, last;
};

// In which order the columns of a step lie: as they come, or as look-ups in tables of bytes give their
// weights. Every four are columns v, v + 8, v + 4 and v + 12 of 16, or v, v + 8, v + 16 and v + 24 of 32.
enum class ColumnOrder { natural, by16, by32 };
inline constexpr int kColumnOrders = 3;

// The column at `place` of every 64.
constexpr int column_at(ColumnOrder order, int place) {
  switch (order) {
    case ColumnOrder::by16:
      return place / 16 * 16 + (place & 1) * 8 + (place >> 1 & 1) * 4 + place / 4 % 4;
    case ColumnOrder::by32:
      return place / 32 * 32 + place % 4 * 8 + place / 4 % 8;
    default:
      return place;
  }
}
constexpr int place_of(ColumnOrder order, int column) {
  int place = 0;
  while (column_at(order, place) != column) ++place;
  return place;
}

// Where a run's sum or minimum lies: in the order in which the kernels pair them, 0 2 1 3, 4 6 5 7, ... (see
// PanelQ4_K).
constexpr int paired(int run) { return (run & ~3) | (run & 1) << 1 | (run & 2) >> 1; }

// Where of 32 groups of eight columns, the first and the last ones of runs of 16, each lies, likewise (see
// PanelIQ1_M): 0 4 2 6 1 5 3 7, 8 12 ...
constexpr int paired_eight(int group) {
  return (group & ~7) | (group & 1) << 2 | (group & 2) | (group & 4) >> 2;
}

// One scale per 256 columns; the sums of every 32, 16 and 8 columns, paired, before q is put into an order.
struct alignas(64) ActivationStep256 {
  std::int8_t q[kStep];
  float scale;
  std::int16_t sum32[kStep / 32];
  std::int16_t sum16[kStep / 16];
  std::int16_t sum8[kStep / 8];
  CenterSums center16[kStep / 16];
};

// Rows for weights that are rounded to int8, too, are the q of all their steps, and from their end backwards
// one of these for each: tiles read nothing else of many rows, and caches hold more of them.
struct ByteStep {
  float scale;
  std::int32_t sum;  // of q
};

inline std::size_t byte_row_size(std::int64_t steps) {
  return static_cast<std::size_t>(steps) * (kStep + sizeof(ByteStep));
}

// That of a row which ends here.
inline const ByteStep& byte_step(const std::byte* end, std::int64_t step) {
  return reinterpret_cast<const ByteStep*>(end)[-1 - step];
}

static_assert(sizeof(ActivationStep32) == 320 && sizeof(ActivationStep256) == 448);

}  // namespace trivet

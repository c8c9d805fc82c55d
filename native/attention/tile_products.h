// What products of tiles of bfloat16 take; see attention_tiles.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/online_softmax.h"

namespace trivet {
namespace {

// Elements that one product of tiles sums over. They come in pairs: element i with element i + kTile.
constexpr int kStep = 2 * kTile;
// Bytes of a row of a tile, and of a tile.
constexpr int kRowBytes = kTile * 2 * sizeof(bf16), kPart = kRowTile * kRowBytes;
constexpr int kPartFloats = kPart / sizeof(float);

// Where a product's sums are: rows `stride` floats apart, tiles `next`.
struct Sums {
  float* first;
  std::int64_t stride, next;
};

}  // namespace
}  // namespace trivet

#include "attention/cache.h"

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "pages.h"

namespace trivet {
namespace {

constexpr int kMaxBlockSize = 1 << 16;

// Of the keys or the values of one head in one tile.
std::int64_t part_bytes(CacheType type, int dim) {
  constexpr int kTile = CacheLayer::kTile, kScaled = CacheLayer::kScaled;
  switch (type) {
    case CacheType::f32:
      return std::int64_t{dim} * kTile * 4;
    case CacheType::q8_0:
      return (dim + std::int64_t{dim + kScaled - 1} / kScaled * 2) * kTile;
    default:
      return std::int64_t{dim} * kTile * 2;
  }
}

}  // namespace

KvCache::KvCache(CacheTypes types, const std::vector<std::pair<int, int>>& layers) : types_(types) {
  for (const auto& [kv_heads, head_dim] : layers) {
    if (kv_heads < 1 || kv_heads > 1 << 16 || head_dim < 1 || head_dim > 1 << 12) {
      throw std::invalid_argument("a cache layer needs 1 to 65536 heads of 1 to 4096 columns, got " +
                                  std::to_string(kv_heads) + " of " + std::to_string(head_dim));
    }
    const int dim = CacheLayer::padded(head_dim);
    const auto half = [dim](CacheType type) {
      return CacheLayer::Half{type, part_bytes(type, dim), nullptr};
    };
    layers_.push_back({kv_heads, head_dim, dim, half(types.keys), half(types.values)});
  }
}

std::int64_t KvCache::block_bytes(std::int64_t block_size) const {
  if (block_size < 1 || block_size > kMaxBlockSize || block_size % CacheLayer::kTile != 0) {
    throw std::invalid_argument("block_size must be a multiple of " + std::to_string(CacheLayer::kTile) +
                                " up to " + std::to_string(kMaxBlockSize) + ", got " +
                                std::to_string(block_size));
  }
  std::int64_t bytes = 0;
  for (const CacheLayer& layer : layers_) {
    for (const auto* half : {&layer.keys, &layer.values}) bytes += layer.half_bytes(*half, block_size);
  }
  return bytes;
}

void KvCache::allocate(std::int64_t blocks, std::int64_t block_size) {
  const std::int64_t bytes = block_bytes(block_size);
  if (blocks < 1 || blocks > INT32_MAX) {
    throw std::invalid_argument("the cache needs 1 to 2^31 - 1 blocks, got " + std::to_string(blocks));
  }
  if (bytes != 0 && blocks > INT64_MAX / bytes) throw std::bad_alloc();
  std::vector<std::shared_ptr<std::byte>> memory;
  std::vector<CacheLayer> layers = layers_;
  for (CacheLayer& layer : layers) {
    for (auto* half : {&layer.keys, &layer.values}) {
      memory.push_back(map_pages(blocks * layer.half_bytes(*half, block_size)));
      half->data = memory.back().get();
    }
  }
  memory_ = std::move(memory);
  layers_ = std::move(layers);
  blocks_ = blocks;
  block_size_ = static_cast<int>(block_size);
}

template <class Copy>
void KvCache::each_half(std::int64_t block, Copy copy) const {
  if (block < 0 || block >= blocks_) {
    throw std::out_of_range("the cache has " + std::to_string(blocks_) + " blocks, and none of number " +
                            std::to_string(block));
  }
  for (const CacheLayer& layer : layers_) {
    for (const auto* half : {&layer.keys, &layer.values}) {
      const std::int64_t bytes = layer.half_bytes(*half, block_size_);
      copy(half->data + block * bytes, bytes);
    }
  }
}

void KvCache::read_block(std::int64_t block, std::byte* out) const {
  each_half(block, [&](const std::byte* half, std::int64_t bytes) {
    std::memcpy(out, half, bytes);
    out += bytes;
  });
}

void KvCache::write_block(std::int64_t block, const std::byte* in) {
  each_half(block, [&](std::byte* half, std::int64_t bytes) {
    std::memcpy(half, in, bytes);
    in += bytes;
  });
}

}  // namespace trivet

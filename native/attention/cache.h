// The paged key-value cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace trivet {

enum class CacheType { f32, f16, bf16, q8_0 };

// Of keys and of values.
struct CacheTypes {
  CacheType keys, values;
};

// One layer's keys and values. Tokens lie in tiles of kTile: a block of `block_size` tokens is block_size /
// kTile consecutive tiles, and nothing but the block table knows of blocks. Of a tile, keys are
// [kv_heads][dim][kTile], so that one vector holds a column of several keys and a score needs no sum across
// lanes; values are [kv_heads][kTile][dim]. `dim` is head_dim rounded up to kColumns, the widest vector's, so
// that a cache is the same for every instruction set; the columns added stay zero.
//
// Of q8_0, a head's part of a tile is so many int8, then a float16 scale [block][kTile] for every kScaled
// columns of each token; the last block may have fewer.
struct CacheLayer {
  static constexpr int kTile = 16, kColumns = 16, kScaled = 32;

  static constexpr int padded(int columns) { return (columns + kColumns - 1) / kColumns * kColumns; }

  // The keys, or the values, of all heads.
  struct Half {
    CacheType type;
    std::int64_t part_bytes;  // of one head in one tile
    std::byte* data;

    std::byte* part(std::int64_t index) const { return data + index * part_bytes; }
  };

  int kv_heads, head_dim, dim;
  Half keys, values;

  // Parts before that of a head in a tile.
  std::int64_t part(std::int64_t tile, int kv_head) const { return tile * kv_heads + kv_head; }

  // Bytes of the keys, or of the values, of so many tokens.
  std::int64_t half_bytes(const Half& half, std::int64_t tokens) const {
    return tokens / kTile * kv_heads * half.part_bytes;
  }
};

class KvCache {
 public:
  // `layers` holds (kv_heads, head_dim).
  KvCache(CacheTypes types, const std::vector<std::pair<int, int>>& layers);

  // Over all layers. Throws std::invalid_argument when block_size is not a positive multiple of the tile.
  std::int64_t block_bytes(std::int64_t block_size) const;

  // Throws std::bad_alloc.
  void allocate(std::int64_t blocks, std::int64_t block_size);

  // Copy a block's bytes out and in: of each layer its keys, then its values. Throws std::out_of_range when
  // there is no such block.
  void read_block(std::int64_t block, std::byte* out) const;
  void write_block(std::int64_t block, const std::byte* in);

  CacheTypes types() const { return types_; }
  const std::vector<CacheLayer>& layers() const { return layers_; }
  std::int64_t blocks() const { return blocks_; }
  int block_size() const { return block_size_; }

 private:
  // Calls copy(a half of a layer's block, its bytes) in the order of a block's bytes.
  template <class Copy>
  void each_half(std::int64_t block, Copy copy) const;

  CacheTypes types_;
  std::vector<CacheLayer> layers_;
  std::vector<std::shared_ptr<std::byte>> memory_;
  std::int64_t blocks_ = 0;
  int block_size_ = CacheLayer::kTile;
};

}  // namespace trivet

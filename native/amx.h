// Tiles of AMX: eight registers of up to 16 rows of 64 bytes, and their products.
//
// The instructions are written out: compilers' intrinsics do not say what memory they read. With
// TRIVET_EMULATE they are executed as Intel's Software Developer's Manual defines them, and what would be an
// invalid instruction ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef TRIVET_EMULATE
#include <immintrin.h>
#endif

namespace trivet {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};  // of a row
  std::uint8_t rows[16] = {};

  constexpr void set(int tile, int tile_rows, int row_bytes) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    bytes[tile] = static_cast<std::uint16_t>(row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

#ifndef TRIVET_EMULATE

// Tiles have the given shapes while this lives. The state is a thread's own, and costs at every switch to
// another thread until it is released.
struct Tiles {
  explicit Tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
  ~Tiles() { asm volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int T>
[[gnu::always_inline]] inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
[[gnu::always_inline]] inline void tile_load(const void* p, std::size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
// The same, of what need not stay in the L1 cache.
template <int T>
[[gnu::always_inline]] inline void tile_stream(const void* p, std::size_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
[[gnu::always_inline]] inline void tile_store(void* p, std::size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
// C += A B of int8 and int8, of int8 and uint8, and of bfloat16.
template <int C, int A, int B>
[[gnu::always_inline]] inline void tile_dot_signed() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
[[gnu::always_inline]] inline void tile_dot_unsigned() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
[[gnu::always_inline]] inline void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else

struct TileState {
  TileConfig config;
  bool configured = false;
  std::uint8_t data[8][kTileRows][kTileBytes];
};
inline thread_local TileState tile_state;

inline void require(bool valid) {
  if (!valid) std::abort();
}

struct Tiles {
  explicit Tiles(const TileConfig& config) {
    require(config.palette == 1 && config.start_row == 0);
    for (int t = 0; t < 16; ++t) {
      const int rows = config.rows[t], bytes = config.bytes[t];
      require(t < 8 ? rows <= kTileRows && bytes <= kTileBytes && (rows == 0) == (bytes == 0)
                    : rows == 0 && bytes == 0);
    }
    std::memset(tile_state.data, 0, sizeof tile_state.data);
    tile_state.config = config;
    tile_state.configured = true;
  }
  ~Tiles() { tile_state.configured = false; }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

inline int tile_rows(int t) {
  require(tile_state.configured && tile_state.config.rows[t] > 0);
  return tile_state.config.rows[t];
}
inline int tile_bytes(int t) { return tile_state.config.bytes[t]; }

template <int T>
void tile_zero() {
  tile_rows(T);
  std::memset(tile_state.data[T], 0, sizeof tile_state.data[T]);
}
template <int T>
void tile_load(const void* p, std::size_t stride) {
  const int rows = tile_rows(T);
  std::memset(tile_state.data[T], 0, sizeof tile_state.data[T]);
  for (int r = 0; r < rows; ++r) {
    std::memcpy(tile_state.data[T][r], static_cast<const std::byte*>(p) + r * stride, tile_bytes(T));
  }
}
template <int T>
void tile_stream(const void* p, std::size_t stride) {
  tile_load<T>(p, stride);
}
template <int T>
void tile_store(void* p, std::size_t stride) {
  for (int r = 0; r < tile_rows(T); ++r) {
    std::memcpy(static_cast<std::byte*>(p) + r * stride, tile_state.data[T][r], tile_bytes(T));
  }
}

// Calls add(element of C, four bytes of a row of A, four bytes of a row of B) in ascending order of these.
template <int C, int A, int B, class Element, class Add>
void tile_dot(Add add) {
  static_assert(C != A && A != B && B != C);
  const int rows = tile_rows(C), columns = tile_bytes(C) / 4, depth = tile_bytes(A) / 4;
  require(tile_rows(A) == rows && tile_rows(B) == depth && tile_bytes(B) == tile_bytes(C));
  require(tile_bytes(A) % 4 == 0 && tile_bytes(B) % 4 == 0);
  for (int m = 0; m < rows; ++m) {
    for (int n = 0; n < columns; ++n) {
      Element c;
      std::memcpy(&c, &tile_state.data[C][m][4 * n], sizeof c);
      c = add(c, depth, tile_state.data[A][m], &tile_state.data[B][0][4 * n]);
      std::memcpy(&tile_state.data[C][m][4 * n], &c, sizeof c);
    }
  }
}

template <int C, int A, int B, class BByte>
void tile_dot_bytes() {
  tile_dot<C, A, B, std::uint32_t>(
      [](std::uint32_t c, int depth, const std::uint8_t* a, const std::uint8_t* b) {
        for (int k = 0; k < depth; ++k) {
          for (int j = 0; j < 4; ++j) {
            c += static_cast<std::uint32_t>(static_cast<std::int8_t>(a[4 * k + j]) *
                                            static_cast<BByte>(b[k * kTileBytes + j]));
          }
        }
        return c;
      });
}
template <int C, int A, int B>
void tile_dot_signed() {
  tile_dot_bytes<C, A, B, std::int8_t>();
}
template <int C, int A, int B>
void tile_dot_unsigned() {
  tile_dot_bytes<C, A, B, std::uint8_t>();
}

// Eight columns of a row at a time; subnormal numbers count as zero, before and after each operation.
using TileFloats = float __attribute__((vector_size(32)));
using TileBits = std::uint32_t __attribute__((vector_size(32)));

inline TileFloats flushed(TileBits x) {
  return (TileFloats)(x & ((TileBits)((x & 0x7f800000u) != 0) | 0x80000000u));
}
inline TileFloats flushed(TileFloats x) { return flushed((TileBits)x); }
template <int C, int A, int B>
void tile_dot_bf16() {
  static_assert(C != A && A != B && B != C);
  const int rows = tile_rows(C), depth = tile_bytes(A) / 4;
  require(tile_rows(A) == rows && tile_rows(B) == depth && tile_bytes(B) == tile_bytes(C));
  require(tile_bytes(A) % 4 == 0 && tile_bytes(B) % 4 == 0);
  for (int m = 0; m < rows; ++m) {
    for (int first = 0; first < kTileBytes; first += sizeof(TileFloats)) {
      TileFloats even = {}, odd = {}, c;
      for (int k = 0; k < depth; ++k) {
        std::uint32_t pair;
        TileBits b;
        std::memcpy(&pair, &tile_state.data[A][m][4 * k], sizeof pair);
        std::memcpy(&b, &tile_state.data[B][k][first], sizeof b);
        const TileBits a = TileBits{} + pair;
        even = flushed(_mm256_fmadd_ps(flushed(a << 16), flushed(b << 16), even));
        odd = flushed(_mm256_fmadd_ps(flushed(a & 0xffff0000u), flushed(b & 0xffff0000u), odd));
      }
      std::memcpy(&c, &tile_state.data[C][m][first], sizeof c);
      c = flushed(flushed(c) + flushed(even + odd));
      std::memcpy(&tile_state.data[C][m][first], &c, sizeof c);
    }
  }
}

#endif

}  // namespace
}  // namespace trivet

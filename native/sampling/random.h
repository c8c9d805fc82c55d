// Counter-based random numbers: a value is a hash of (seed, position, token), never drawn from shared state.
#pragma once

#include <bit>
#include <cstdint>

namespace trivet {

// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
inline std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// The key of one draw; `position` counts the tokens before the one drawn.
inline std::uint64_t draw_key(std::uint64_t seed, std::uint64_t position) {
  return mix64(mix64(seed + 0x9E3779B97F4A7C15u) + position * 0xD1B54A32D192ED03u);
}

// Uniform in (0, 1), for one token of one draw.
inline double uniform(std::uint64_t key, std::uint32_t token) {
  const std::uint64_t bits = mix64(key + (token + 1) * std::uint64_t{0x9E3779B97F4A7C15u});
  return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
}

// No token: draws that belong to the row as a whole.
constexpr std::uint32_t kCoin = 0xFFFFFFFEu;

// A permutation of 0..size-1 that depends on a key: invertible steps on as many bits as it takes, again where
// they lead outside ("cycle walking"; Black, Rogaway: "Ciphers with arbitrary finite domains", 2002).
class Permutation {
 public:
  Permutation(std::uint64_t key, std::uint32_t size)
      : key_(mix64(key)),
        size_(size),
        bits_(std::bit_width(size - 1)),
        mask_((std::uint64_t{1} << bits_) - 1) {}

  std::uint32_t operator()(std::uint32_t x) const {
    do x = step(x);
    while (x >= size_);
    return x;
  }

 private:
  std::uint32_t step(std::uint64_t x) const {
    std::uint64_t key = key_;
    for (int round = 0; round < 4; ++round) {
      x = (x + key) & mask_;
      x = (x * ((key >> 32) | 1)) & mask_;
      x ^= x >> (bits_ / 2 + 1);
      key = std::rotr(key, 13);
    }
    return static_cast<std::uint32_t>(x);
  }

  std::uint64_t key_;
  std::uint32_t size_;
  int bits_;
  std::uint64_t mask_;
};

}  // namespace trivet

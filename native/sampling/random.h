// Counter-based random numbers: a value is a hash of (seed, position, token), never drawn from shared state.
#pragma once

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

}  // namespace trivet

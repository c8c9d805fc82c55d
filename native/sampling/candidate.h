// What a chain of stages works on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace trivet {

struct Candidate {
  float logit;
  std::int32_t id;
};

// Better first: larger logit, then smaller id, so that the order is total.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The logit of a token that must not be drawn; candidates never have it.
constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// Parameters may drive a logit past float32, or to 0 * inf; the stages need differences that are finite
// numbers.
inline float bounded(float logit) {
  constexpr float kMost = 1e30f;
  return logit > -kMost ? std::min(logit, kMost) : -kMost;
}

}  // namespace trivet

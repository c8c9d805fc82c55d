// Log-probabilities of a token and of others beside it.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "sampling/shortlist.h"
#include "sampling/stages.h"

namespace trivet {

struct Logprobs {
  float logprob = 0;
  std::int64_t rank = 0;  // one more than there are better ones
  std::vector<std::pair<std::int32_t, float>> top;
};

// Under the softmax of `tokens`. `top` holds those of `ids`, where there are any, else of the `count` best,
// the best first. Tokens that are not in the list have a log-probability of minus infinity, and are never
// among the best.
Logprobs logprobs_of(std::int32_t token, Shortlist& tokens, std::int64_t count,
                     std::span<const std::int32_t> ids, Ties ties);

}  // namespace trivet

// How one of the candidates that a chain leaves is chosen, and what of that the next choice has to know.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "sampling/candidate.h"
#include "sampling/chain.h"

namespace trivet {

// Mirostat keeps (mu, 0); adaptive_p the sums of the chosen tokens' probabilities and of their weights.
using SelectorState = std::array<double, 2>;

// That before the first choice; none for a selector that keeps nothing.
std::optional<SelectorState> first_state(const Chain& chain);

// One of the candidates with probability e^logit; `key` is that of the draw.
Candidate draw(const std::vector<Candidate>& candidates, std::uint64_t key);

// Narrow the candidates or change their logits as the selector does, choose one, and bring the state up to
// date. There must be a state where `first_state` gives one.
Candidate select(const Chain& chain, std::vector<Candidate>& candidates, std::uint64_t key,
                 std::int32_t vocab_size, std::optional<SelectorState>& state);

}  // namespace trivet

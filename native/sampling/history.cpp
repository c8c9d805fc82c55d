#include "sampling/history.h"

#include <algorithm>
#include <cmath>

namespace trivet {
namespace {

// The last `count` tokens, the newest first; all where count is negative.
std::vector<std::int32_t> newest(std::span<const std::int32_t> history, std::int64_t count) {
  if (count >= 0) history = history.last(std::min(static_cast<std::size_t>(count), history.size()));
  return {history.rbegin(), history.rend()};
}

// How many of the newest tokens come after the last breaker, which counts as far as its own first token.
std::size_t after_breaker(const Breakers& breakers, const std::vector<std::int32_t>& newest) {
  for (std::size_t i = 0; i < newest.size(); ++i) {
    std::int64_t longest = breakers.single.contains(newest[i]) ? 0 : -1;
    if (const auto found = breakers.longer.find(newest[i]); found != breakers.longer.end()) {
      for (std::size_t index : found->second) {
        const std::vector<std::int32_t>& tail = breakers.tails[index];
        if (tail.size() > i || static_cast<std::int64_t>(tail.size()) <= longest) continue;
        const auto end = newest.begin() + static_cast<std::ptrdiff_t>(i);
        if (std::equal(tail.rbegin(), tail.rend(), end - static_cast<std::ptrdiff_t>(tail.size()))) {
          longest = static_cast<std::int64_t>(tail.size());
        }
      }
    }
    if (longest >= 0) return i - static_cast<std::size_t>(longest);
  }
  return newest.size();
}

// z[k]: how many tokens from k on equal those from 0 on (Gusfield 1997, section 1.4).
std::vector<std::size_t> z_function(const std::vector<std::int32_t>& tokens) {
  std::vector<std::size_t> z(tokens.size());
  std::size_t left = 0, right = 0;
  for (std::size_t k = 1; k < tokens.size(); ++k) {
    std::size_t length = k < right ? std::min(z[k - left], right - k) : 0;
    while (k + length < tokens.size() && tokens[length] == tokens[k + length]) ++length;
    z[k] = length;
    if (k + length > right) left = k, right = k + length;
  }
  return z;
}

}  // namespace

void find_repetitions(const Chain& chain, std::span<const std::int32_t> history, TokenCounts& lengths) {
  const std::vector<std::int32_t> tokens = newest(history, chain.dry_penalty_last_n);
  const auto allowed = static_cast<std::size_t>(chain.dry_allowed_length);
  if (tokens.size() <= allowed) return;
  const std::size_t limit = after_breaker(chain.dry_breakers, tokens);
  if (limit < allowed) return;
  const std::vector<std::size_t> z = z_function(tokens);
  for (std::size_t k = 1; k < tokens.size(); ++k) {
    const std::size_t length = std::min(z[k], limit);
    // The token after the repeated ones. Breakers of one token are never penalised.
    if (length < allowed || chain.dry_breakers.single.contains(tokens[k - 1])) continue;
    lengths.raise(tokens[k - 1], static_cast<std::int32_t>(length) + 1);
  }
}

float dry_penalty(const Chain& chain, std::int32_t length) {
  constexpr float kMostLog = 88.7228391f;  // of what float32 can hold
  auto exponent = static_cast<std::int64_t>(length) - chain.dry_allowed_length;
  if (chain.dry_base > 1.000001f) {
    exponent = std::min(exponent, static_cast<std::int64_t>(kMostLog / std::log(chain.dry_base)));
  }
  return chain.dry_multiplier * std::pow(chain.dry_base, static_cast<float>(exponent));
}

bool completes(std::span<const std::int32_t> word, std::span<const std::int32_t> history) {
  const auto rest = word.first(word.size() - 1);
  return rest.size() <= history.size() && std::ranges::equal(rest, history.last(rest.size()));
}

}  // namespace trivet

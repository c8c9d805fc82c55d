#include "sampling/selectors.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sampling/random.h"
#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace trivet {
namespace {

constexpr double kMostSurprise = 1e6;  // bits; keeps mu a finite number whatever eta

// The number of candidates whose best ones have an expected surprise of mu, for probabilities that follow
// Zipf's law with the exponent of the 100 best (Basu et al. 2021, algorithm 1, as llama.cpp computes it).
std::int64_t mirostat_k(const std::vector<Candidate>& candidates, double mu, std::int32_t vocab_size) {
  std::vector<Candidate> best = candidates;
  keep_top_k(best, 100);
  std::sort(best.begin(), best.end(), better);
  double products = 0, squares = 0;
  for (std::size_t i = 0; i + 1 < best.size(); ++i) {
    const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
    products += t * (best[i].logit - best[i + 1].logit);
    squares += t * t;
  }
  const double s = products / squares;
  const double epsilon = s - 1;
  // The limit of epsilon / (1 - V^-epsilon) at 0 is 1 / ln V.
  const double share = std::abs(epsilon) < 1e-9 ? 1 / std::log(static_cast<double>(vocab_size))
                                                : epsilon / (1 - std::pow(vocab_size, -epsilon));
  const double k = std::pow(share * std::exp2(mu), 1 / s);
  return k >= 1 ? static_cast<std::int64_t>(std::min(k, static_cast<double>(candidates.size()))) : 1;
}

void keep_surprises_below(std::vector<Candidate>& candidates, double mu) {
  const float max = max_logit(candidates);
  const double log_sum = max + std::log(sum_exp(candidates, max));
  const double least = log_sum - mu * std::log(2.0);
  if (least > max) return keep_top_k(candidates, 1);
  std::erase_if(candidates, [least](const Candidate& c) { return c.logit < least; });
}

Candidate mirostat(const Chain& chain, std::vector<Candidate>& candidates, std::uint64_t key,
                   std::int32_t vocab_size, double& mu) {
  if (chain.selector == Selector::mirostat_v2) {
    keep_surprises_below(candidates, mu);
  } else if (candidates.size() > 1) {
    keep_top_k(candidates, mirostat_k(candidates, mu, vocab_size));
  }
  const Candidate chosen = draw(candidates, key);
  const float max = max_logit(candidates);
  const double surprise = (max + std::log(sum_exp(candidates, max)) - chosen.logit) / std::log(2.0);
  mu = std::clamp(mu - chain.mirostat_eta * (surprise - chain.mirostat_tau), -kMostSurprise, kMostSurprise);
  return chosen;
}

// llama.cpp's adaptive_p: candidates whose probability is near to a target become the likely ones; the target
// moves so that the chosen ones' probabilities come to the wanted mean.
Candidate adaptive_p(const Chain& chain, std::vector<Candidate>& candidates, std::uint64_t key,
                     SelectorState& state) {
  constexpr double kPeak = 5, kSharpness = 10, kWidth = 0.3;
  auto& [sum, weight] = state;
  const double target = std::clamp(2 * chain.adaptive_target - sum / weight, 0.0, 1.0);
  const float max = max_logit(candidates);
  const double total = sum_exp(candidates, max);
  const std::vector<Candidate> before = candidates;
  for (Candidate& c : candidates) {
    const double distance = std::abs(exp_nonpositive(c.logit - max) / total - target) / kWidth;
    c.logit = static_cast<float>(kPeak - kSharpness * distance * distance / (1 + distance));
  }
  const Candidate chosen = draw(candidates, key);
  const float logit = std::ranges::find(before, chosen.id, &Candidate::id)->logit;
  sum = chain.adaptive_decay * sum + exp_nonpositive(logit - max) / total;
  weight = chain.adaptive_decay * weight + 1;
  return chosen;
}

}  // namespace

std::optional<SelectorState> first_state(const Chain& chain) {
  switch (chain.selector) {
    case Selector::draw:
      return std::nullopt;
    case Selector::mirostat_v1:
    case Selector::mirostat_v2:
      return SelectorState{std::min(2 * chain.mirostat_tau, kMostSurprise), 0};
    case Selector::adaptive_p: {
      const double weight = 1 / (1 - chain.adaptive_decay);
      return SelectorState{chain.adaptive_target * weight, weight};
    }
  }
  return std::nullopt;
}

Candidate draw(const std::vector<Candidate>& candidates, std::uint64_t key) {
  // A race of exponential clocks: the least -ln(u) / w wins with probability proportional to w. Every token
  // has a random number of its own, so the winner does not depend on the candidates' order.
  if (candidates.size() == 1) return candidates.front();
  const float max = max_logit(candidates);
  double best = std::numeric_limits<double>::infinity();
  Candidate winner = candidates.front();
  constexpr std::size_t kBlock = 64;
  for (std::size_t begin = 0; begin < candidates.size(); begin += kBlock) {
    const Candidate* block = candidates.data() + begin;
    const std::size_t count = std::min(kBlock, candidates.size() - begin);
    float weights[kBlock];
    for (std::size_t i = 0; i < count; ++i) weights[i] = exp_nonpositive(block[i].logit - max);
    for (std::size_t i = 0; i < count; ++i) {
      const double weight = weights[i], u = uniform(key, static_cast<std::uint32_t>(block[i].id));
      if (weight == 0 || 1 - u > best * weight) continue;  // -ln(u) >= 1 - u: saves nearly all logarithms
      const double time = -std::log(u) / weight;
      if (time < best || (time == best && block[i].id < winner.id)) {
        best = time;
        winner = block[i];
      }
    }
  }
  return winner;
}

Candidate select(const Chain& chain, std::vector<Candidate>& candidates, std::uint64_t key,
                 std::int32_t vocab_size, std::optional<SelectorState>& state) {
  switch (chain.selector) {
    case Selector::draw:
      break;
    case Selector::mirostat_v1:
    case Selector::mirostat_v2:
      return mirostat(chain, candidates, key, vocab_size, (*state)[0]);
    case Selector::adaptive_p:
      return adaptive_p(chain, candidates, key, *state);
  }
  return draw(candidates, key);
}

}  // namespace trivet

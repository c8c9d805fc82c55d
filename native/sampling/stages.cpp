#include "sampling/stages.h"

#include <algorithm>
#include <cmath>

#include "sampling/softmax.h"

namespace trivet {
namespace {

// Keeps the fewest first candidates whose summed weight(c) satisfies reached(sum). They are ordered by
// before(a, b), which never contradicts distance(c) >= 0. A histogram of the distances finds the border, so
// that only one bucket has to be sorted.
template <typename Distance, typename Before, typename Weight, typename Reached>
void keep_first(std::vector<Candidate>& candidates, Distance distance, Before before, Weight weight,
                Reached reached) {
  constexpr int kBuckets = 2048;
  constexpr float kPerNat = 64;
  const auto bucket = [&](const Candidate& c) {
    const float place = static_cast<float>(distance(c)) * kPerNat;
    return place < kBuckets - 1 ? static_cast<int>(place) : kBuckets - 1;
  };
  double mass[kBuckets] = {};
  for (const Candidate& c : candidates) mass[bucket(c)] += weight(c);
  int border = 0;
  double sum = 0;
  while (border < kBuckets - 1 && !reached(sum + mass[border])) sum += mass[border++];

  const auto first = std::partition(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return bucket(c) < border; });
  const auto last =
      std::partition(first, candidates.end(), [&](const Candidate& c) { return bucket(c) == border; });
  std::sort(first, last, before);
  auto end = first;
  while (end != last && !reached(sum)) sum += weight(*end++);
  candidates.erase(end, candidates.end());
}

// Applies keep(candidates), but leaves the `min_keep` best at least.
template <typename Keep>
void keep_at_least(std::vector<Candidate>& candidates, std::size_t min_keep, Keep keep) {
  if (min_keep <= 1) return keep(candidates);
  std::vector<Candidate> kept = candidates;
  keep(kept);
  if (kept.size() >= min_keep) {
    candidates.swap(kept);
  } else {
    keep_top_k(candidates, static_cast<std::int64_t>(min_keep));
  }
}

// Whether `mass` of `sum` reaches p; in float32, as p was given, so that .4 + .3 reaches .7.
bool reaches(double mass, double sum, float p) { return static_cast<float>(mass / sum) >= p; }

// -sum p ln p, where `sum` is that of e^(logit - max).
double entropy_of(const std::vector<Candidate>& candidates, float max, double sum) {
  double weighted = 0;
  for (const Candidate& c : candidates) {
    const float p = exp_nonpositive(c.logit - max);
    if (p > 0) weighted += p * (max - c.logit);  // the difference may be infinite
  }
  return std::log(sum) + weighted / sum;
}

}  // namespace

float max_logit(const std::vector<Candidate>& candidates) {
  float max = candidates.front().logit;
  for (const Candidate& c : candidates) max = std::max(max, c.logit);
  return max;
}

double sum_exp(const std::vector<Candidate>& candidates, float max) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += exp_nonpositive(c.logit - max);
  return sum;
}

void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k, Ties ties) {
  if (k <= 0 || k >= static_cast<std::int64_t>(candidates.size())) return;
  const float max = max_logit(candidates);
  const auto keep = [&](std::vector<Candidate>& from) {
    keep_first(
        from, [max](const Candidate& c) { return max - c.logit; }, better,
        [](const Candidate&) { return 1.0; }, [k](double count) { return count >= static_cast<double>(k); });
  };
  if (ties == Ties::cut) return keep(candidates);
  std::vector<Candidate> kept = candidates;
  keep(kept);
  const float least = std::ranges::min(kept, {}, &Candidate::logit).logit;
  std::erase_if(candidates, [least](const Candidate& c) { return c.logit < least; });
}

void keep_top_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep, double sum) {
  const float max = max_logit(candidates);
  keep_at_least(candidates, min_keep, [&](std::vector<Candidate>& from) {
    keep_first(
        from, [max](const Candidate& c) { return max - c.logit; }, better,
        [max](const Candidate& c) { return static_cast<double>(exp_nonpositive(c.logit - max)); },
        // A p under the best one's share still keeps the best one.
        [&](double mass) { return mass > 0 && reaches(mass, sum, p); });
  });
}

void keep_min_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep) {
  const float least = max_logit(candidates) + std::log(p);
  keep_at_least(candidates, min_keep, [least](std::vector<Candidate>& from) {
    std::erase_if(from, [least](const Candidate& c) { return c.logit < least; });
  });
}

void keep_typical_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep, Ties ties) {
  const float max = max_logit(candidates);
  const double sum = sum_exp(candidates, max), log_sum = max + std::log(sum);
  const double entropy = entropy_of(candidates, max, sum);
  const auto distance = [&](const Candidate& c) { return std::abs(log_sum - c.logit - entropy); };
  const auto nearer = [&](const Candidate& a, const Candidate& b) {
    const double x = distance(a), y = distance(b);
    return x < y || (x == y && a.id < b.id);
  };
  const auto weight = [max](const Candidate& c) {
    return static_cast<double>(exp_nonpositive(c.logit - max));
  };
  const auto keep = [&](std::vector<Candidate>& from, auto mass_of, auto reached) {
    keep_first(from, distance, nearer, mass_of, reached);
  };
  std::vector<Candidate> kept = candidates;
  keep(kept, weight, [&](double mass) {
    return mass > 0 && (ties == Ties::keep ? reaches(mass, sum, p) : static_cast<float>(mass / sum) > p);
  });
  if (kept.size() < min_keep) {
    kept = candidates;
    keep(
        kept, [](const Candidate&) { return 1.0; },
        [&](double count) { return count >= static_cast<double>(min_keep); });
  }
  if (ties == Ties::cut) {
    candidates.swap(kept);
    return;
  }
  double farthest = 0;
  for (const Candidate& c : kept) farthest = std::max(farthest, distance(c));
  std::erase_if(candidates, [&](const Candidate& c) { return distance(c) > farthest; });
}

void keep_top_n_sigma(std::vector<Candidate>& candidates, float n) {
  double sum = 0, squares = 0;
  for (const Candidate& c : candidates) sum += c.logit;
  const double mean = sum / static_cast<double>(candidates.size());
  for (const Candidate& c : candidates) squares += (c.logit - mean) * (c.logit - mean);
  const double sigma = std::sqrt(squares / static_cast<double>(candidates.size()));
  const double least = max_logit(candidates) - n * sigma;
  std::erase_if(candidates, [least](const Candidate& c) { return c.logit < least; });
}

void exclude_top_choices(std::vector<Candidate>& candidates, float threshold, std::size_t min_keep) {
  const float max = max_logit(candidates);
  const double sum = sum_exp(candidates, max);
  const Candidate* last = nullptr;
  std::size_t excluded = 0;
  for (const Candidate& c : candidates) {
    if (!reaches(exp_nonpositive(c.logit - max), sum, threshold)) continue;
    if (last != nullptr) ++excluded;
    if (last == nullptr || better(*last, c)) last = &c;
  }
  if (excluded == 0 || candidates.size() - excluded < min_keep) return;
  std::erase_if(candidates, [limit = *last](const Candidate& c) { return better(c, limit); });
}

float dynamic_temperature(const std::vector<Candidate>& candidates, const Chain& chain) {
  if (chain.dynatemp_range <= 0 || candidates.size() < 2) return chain.temperature;
  const float max = max_logit(candidates);
  const double entropy = entropy_of(candidates, max, sum_exp(candidates, max));
  const double share = std::clamp(entropy / std::log(static_cast<double>(candidates.size())), 0.0, 1.0);
  const float least = std::max(0.0f, chain.temperature - chain.dynatemp_range);
  const float most = chain.temperature + chain.dynatemp_range;
  const double scale = std::pow(share, static_cast<double>(chain.dynatemp_exponent));
  return bounded(static_cast<float>(least + (most - least) * scale));
}

}  // namespace trivet

#include "sampling/stages.h"

#include <algorithm>
#include <cmath>

#include "sampling/softmax.h"

namespace trivet {
namespace {

float max_logit(const std::vector<Candidate>& candidates) {
  float max = candidates.front().logit;
  for (const Candidate& c : candidates) max = std::max(max, c.logit);
  return max;
}

// Keeps the fewest best candidates whose summed weight(c) satisfies reached(sum), in no particular order.
// A histogram over the logits finds the border, so that only one bucket has to be sorted.
template <typename Weight, typename Reached>
void keep_best(std::vector<Candidate>& candidates, float max, Weight weight, Reached reached) {
  constexpr int kBuckets = 2048;
  constexpr float kPerNat = 64;
  const auto bucket = [max](const Candidate& c) {
    return static_cast<int>(std::min((max - c.logit) * kPerNat, static_cast<float>(kBuckets - 1)));
  };
  double mass[kBuckets] = {};
  for (const Candidate& c : candidates) mass[bucket(c)] += weight(c);
  int border = 0;
  double sum = 0;
  while (border < kBuckets - 1 && !reached(sum + mass[border])) sum += mass[border++];

  const auto first = std::partition(candidates.begin(), candidates.end(),
                                    [&](const Candidate& c) { return bucket(c) < border; });
  const auto last = std::partition(first, candidates.end(), [&](const Candidate& c) { return bucket(c) == border; });
  std::sort(first, last, better);
  auto end = first;
  while (end != last && !reached(sum)) sum += weight(*end++);
  candidates.erase(end, candidates.end());
}

// Whether `mass` of `sum` reaches p; in float32, as p was given, so that .4 + .3 reaches .7.
bool reaches(double mass, double sum, float p) { return static_cast<float>(mass / sum) >= p; }

}  // namespace

void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k) {
  if (k <= 0 || k >= static_cast<std::int64_t>(candidates.size())) return;
  keep_best(
      candidates, max_logit(candidates), [](const Candidate&) { return 1.0; },
      [k](double count) { return count >= static_cast<double>(k); });
}

void keep_top_p(std::vector<Candidate>& candidates, float p) {
  if (p >= 1) return;
  const float max = max_logit(candidates);
  const auto weight = [max](const Candidate& c) { return static_cast<double>(exp_nonpositive(c.logit - max)); };
  double sum = 0;
  for (const Candidate& c : candidates) sum += weight(c);
  // A p under the best one's share still keeps the best one.
  keep_best(candidates, max, weight, [&](double mass) { return mass > 0 && reaches(mass, sum, p); });
}

void keep_min_p(std::vector<Candidate>& candidates, float p) {
  if (p <= 0) return;
  const float least = max_logit(candidates) + std::log(p);
  std::erase_if(candidates, [least](const Candidate& c) { return c.logit < least; });
}

void keep_typical_p(std::vector<Candidate>& candidates, float p) {
  if (p >= 1) return;
  const float max = max_logit(candidates);
  const auto weight = [max](const Candidate& c) { return static_cast<double>(exp_nonpositive(c.logit - max)); };
  double sum = 0;
  for (const Candidate& c : candidates) sum += weight(c);
  const double log_sum = max + std::log(sum);
  double entropy = 0;
  for (const Candidate& c : candidates) entropy += weight(c) / sum * (log_sum - c.logit);
  const auto distance = [&](const Candidate& c) { return std::abs(log_sum - c.logit - entropy); };
  std::sort(candidates.begin(), candidates.end(), [&](const Candidate& a, const Candidate& b) {
    const double x = distance(a), y = distance(b);
    return x < y || (x == y && a.id < b.id);
  });
  double mass = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    mass += weight(candidates[i]);
    if (reaches(mass, sum, p)) {
      candidates.resize(i + 1);
      return;
    }
  }
}

}  // namespace trivet

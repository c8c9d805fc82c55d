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

// Unnormalised probabilities in candidate order and their sum.
double weights(const std::vector<Candidate>& candidates, float max, std::vector<float>& out) {
  out.resize(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) out[i] = exp_nonpositive(candidates[i].logit - max);
  double sum = 0;
  for (float w : out) sum += w;
  return sum;
}

// Whether `mass` of `sum` reaches p; in float32, as p was given, so that .4 + .3 reaches .7.
bool reaches(double mass, double sum, float p) { return static_cast<float>(mass / sum) >= p; }

}  // namespace

void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k) {
  if (k <= 0 || k >= static_cast<std::int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + k - 1, candidates.end(), better);
  candidates.resize(static_cast<std::size_t>(k));
}

void keep_top_p(std::vector<Candidate>& candidates, float p) {
  if (p >= 1) return;
  const float max = max_logit(candidates);
  std::vector<float> w;
  const double sum = weights(candidates, max, w);
  // Sorting a growing head finds the nucleus without sorting the whole vocabulary.
  std::size_t sorted = 0, head = 64;
  double mass = 0;
  while (sorted < candidates.size()) {
    head = std::min(head, candidates.size());
    const auto begin = candidates.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(head);
    std::partial_sort(begin, end, candidates.end(), better);
    for (; sorted < head; ++sorted) {
      mass += exp_nonpositive(candidates[sorted].logit - max);
      if (reaches(mass, sum, p)) {
        candidates.resize(sorted + 1);
        return;
      }
    }
    head *= 4;
  }
}

void keep_min_p(std::vector<Candidate>& candidates, float p) {
  if (p <= 0) return;
  const float least = max_logit(candidates) + std::log(p);
  std::erase_if(candidates, [least](const Candidate& c) { return c.logit < least; });
}

void keep_typical_p(std::vector<Candidate>& candidates, float p) {
  if (p >= 1) return;
  const float max = max_logit(candidates);
  std::vector<float> w;
  const double sum = weights(candidates, max, w);
  const double log_sum = max + std::log(sum);
  double entropy = 0;
  for (std::size_t i = 0; i < w.size(); ++i) entropy += w[i] / sum * (log_sum - candidates[i].logit);
  const auto distance = [&](const Candidate& c) { return std::abs(log_sum - c.logit - entropy); };
  std::sort(candidates.begin(), candidates.end(), [&](const Candidate& a, const Candidate& b) {
    const double x = distance(a), y = distance(b);
    return x < y || (x == y && a.id < b.id);
  });
  double mass = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    mass += exp_nonpositive(candidates[i].logit - max);
    if (reaches(mass, sum, p)) {
      candidates.resize(i + 1);
      return;
    }
  }
}

}  // namespace trivet

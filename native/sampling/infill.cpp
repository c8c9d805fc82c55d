#include "sampling/infill.h"

#include <algorithm>
#include <unordered_map>

#include "sampling/softmax.h"
#include "sampling/stages.h"

namespace trivet {
namespace {

// Merges the probability of each two of which one is the beginning of the other into the likelier one's. The
// candidates are in order, the best first.
void merge_prefixes(const std::vector<Candidate>& candidates, const std::vector<std::int32_t>& parents,
                    std::vector<double>& p) {
  std::unordered_map<std::int32_t, std::size_t> places;
  for (std::size_t i = 0; i < candidates.size(); ++i) places[candidates[i].id] = i;
  const auto parent = [&](std::int32_t id) {
    return static_cast<std::size_t>(id) < parents.size() ? parents[static_cast<std::size_t>(id)] : -1;
  };
  std::vector<std::vector<std::size_t>> longer(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    for (std::int32_t id = parent(candidates[i].id); id >= 0; id = parent(id)) {
      if (const auto found = places.find(id); found != places.end()) longer[found->second].push_back(i);
    }
  }
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    for (std::size_t j : longer[i]) {
      if (p[i] == 0) break;
      if (p[j] == 0) continue;
      const auto [into, from] = p[j] > p[i] ? std::pair(j, i) : std::pair(i, j);
      p[into] += p[from];
      p[from] = 0;
    }
  }
}

}  // namespace

void keep_infill(std::vector<Candidate>& candidates, const Chain& chain, bool end_is_possible) {
  constexpr double kLeast = 0.2;
  std::sort(candidates.begin(), candidates.end(), better);
  const auto ends = [&](const Candidate& c) {
    return std::ranges::find(chain.end_tokens, c.id) != chain.end_tokens.end();
  };
  const float max = candidates.front().logit;
  const double total = sum_exp(candidates, max);
  std::vector<double> p;
  double p_end = 0, p_text = 0;
  for (const Candidate& c : candidates) {
    p.push_back(exp_nonpositive(c.logit - max) / total);
    (ends(c) ? p_end : p_text) += p.back();
  }
  if (3 * p_end * static_cast<double>(candidates.size()) > p_text) {
    std::erase_if(candidates, [&](const Candidate& c) { return !ends(c); });
    return;
  }
  merge_prefixes(candidates, chain.piece_parents, p);
  const Candidate best = candidates.front();
  double least = kLeast;
  for (int pass = 0; pass < 2; ++pass) {
    double sum = 0;
    std::size_t kept = 0, texts = 0;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      const bool end = ends(candidates[i]);
      if (!end && p[i] < least) continue;
      if (!end) ++texts;
      sum += p[i];
      candidates[kept] = candidates[i];
      p[kept++] = p[i];
    }
    candidates.resize(kept);
    if (pass == 0 && texts == 0) {
      const bool end = end_is_possible && !chain.end_tokens.empty();
      candidates = {end ? Candidate{0, chain.end_tokens.front()} : best};
      return;
    }
    least = sum / static_cast<double>(texts + 1);  // of probabilities that are not divided by their sum
  }
}

}  // namespace trivet

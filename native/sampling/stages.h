// The stages of a sampling chain that narrow the candidates down. Each keeps at least one.
#pragma once

#include <vector>

#include "sampling/sampler.h"

namespace trivet {

// Better first: larger logit, then smaller id, so that the order is total.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The k best.
void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k);

// The fewest best candidates whose probabilities reach p (Holtzman et al. 2019, nucleus sampling).
void keep_top_p(std::vector<Candidate>& candidates, float p);

// Those with at least p times the best one's probability.
void keep_min_p(std::vector<Candidate>& candidates, float p);

// The fewest whose surprise is nearest to the entropy and whose probabilities reach p (Meister et al. 2022).
void keep_typical_p(std::vector<Candidate>& candidates, float p);

}  // namespace trivet

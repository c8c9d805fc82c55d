#include "sampling/logprobs.h"

#include <algorithm>
#include <cmath>

namespace trivet {

Logprobs logprobs_of(std::int32_t token, Shortlist& tokens, std::int64_t count,
                     std::span<const std::int32_t> ids, Ties ties) {
  const float max = tokens.max_score(), own = tokens.score(token);
  const double log_sum = max + std::log(tokens.sum_exp(max));
  const auto logprob = [log_sum](float score) { return static_cast<float>(score - log_sum); };
  Logprobs out{logprob(own), 1 + tokens.count_above(own), {}};
  if (!ids.empty()) {
    for (std::int32_t id : ids) out.top.emplace_back(id, logprob(tokens.score(id)));
  } else if (count > 0) {
    std::vector<Candidate> best = tokens.list_best(count);
    keep_top_k(best, count, ties);
    std::sort(best.begin(), best.end(), better);
    for (const Candidate& c : best) out.top.emplace_back(c.id, logprob(c.logit));
  }
  return out;
}

}  // namespace trivet

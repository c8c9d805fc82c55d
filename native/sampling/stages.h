// The stages of a sampling chain that narrow the candidates down. Each keeps at least one, and in no order.
#pragma once

#include <vector>

#include "sampling/candidate.h"
#include "sampling/chain.h"

namespace trivet {

// What is kept beyond a limit that candidates share.
enum class Ties { cut, keep };

// The k best; with `Ties::keep` also those equal to the last of them.
void keep_top_k(std::vector<Candidate>& candidates, std::int64_t k, Ties ties = Ties::cut);

// The fewest best candidates whose probabilities reach p (Holtzman et al. 2019, nucleus sampling). `sum` is
// that of e^(logit - max) over the candidates and those that were left out of the list.
void keep_top_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep, double sum);

// Those with at least p times the best one's probability.
void keep_min_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep);

// The fewest whose surprise is nearest to the entropy and whose probabilities exceed p (Meister et al. 2022).
// With `Ties::keep`, TGI's rule: that reach p, with those as near as the last of them.
void keep_typical_p(std::vector<Candidate>& candidates, float p, std::size_t min_keep, Ties ties);

// Those at most `n` standard deviations of the logits below the best (Tang et al. 2024, top-n-sigma).
void keep_top_n_sigma(std::vector<Candidate>& candidates, float n);

// Of those with a probability of at least `threshold`, the least probable and all below (XTC, by p-e-w);
// unless fewer than `min_keep` would be left.
void exclude_top_choices(std::vector<Candidate>& candidates, float threshold, std::size_t min_keep);

// A temperature that follows the entropy of the candidates (llama.cpp's dynatemp).
float dynamic_temperature(const std::vector<Candidate>& candidates, const Chain& chain);

float max_logit(const std::vector<Candidate>& candidates);

// The sum of e^(logit - max).
double sum_exp(const std::vector<Candidate>& candidates, float max);

}  // namespace trivet
